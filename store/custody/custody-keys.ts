/**
 * The keys of agents whose custody the service has, and everything that is sealed under them.
 *
 * Promises: what was sealed opens only in its own row and version (store/at-rest.ts). An identity that was opened is kept for a minute, and not
 * after something was destroyed. Every method throws `Unavailable` while the keyring is away, and Refusals of `SealedCode`.
 */
import { ByteWriter, EMPTY, label } from "../../protocol/bytes.ts";
import { encodeFrame, type Frame } from "../../protocol/frame.ts";
import { createIdentity, type Identity, identityFromSeed } from "../../protocol/identity.ts";
import { type Peer, retireSessions, unknownPeer } from "../../protocol/peer.ts";
import { decodePeer, encodePeer, RecordUnreadable } from "../../protocol/peer-record.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import { UUID_BYTES, uuidToBytes } from "../../protocol/uuid.ts";
import type { AtRest, Place, SealedCode } from "../at-rest.ts";
import { KeptKeys } from "../keyring/kept-keys.ts";
import { KEY_BYTES, type Keyring } from "../keyring/keyring.ts";
import type { StoredState } from "./states.ts";

/** As many as row keys are kept (store/at-rest.ts): agents that speak in the same minute. */
const AGENTS_MAX = 20_000;

const MAC_LABEL = label("sealpost/v1/command-mac");
const LENGTH_BYTES = 2;

/** The command whose content is to be recognised. Ids as text. */
export interface MacCommand {
  readonly senderId: string;
  readonly recipientId: string;
  readonly messageId: string;
}

export interface CustodyKeys {
  /** A new identity and its seed, sealed. Its master key is in the keyring before it is answered. */
  makeIdentity(): { readonly identity: Identity; readonly sealed: Uint8Array };
  openIdentity(agentId: string, sealed: Uint8Array): Identity;
  /** Throws a Refusal when the agent's keys are gone. */
  require(agentId: string): void;
  /** The agent of this id gets no keys any more; everything of it is lost. */
  destroy(agentId: string): void;
  /** `version`: the one the row will have. */
  sealState(ownerId: string, peer: Peer, version: number): Uint8Array;
  /**
   * The peer, as it may be used: sessions of a state that is outdated only receive.
   *
   * @throws Refusal of `SealedCode`; Unavailable for a state that a later version of this code has written
   */
  openState(state: Omit<StoredState, "generation">): Peer;
  sealPrekey(agentId: string, prekeyId: string, privateKey: Uint8Array): Uint8Array;
  openPrekey(agentId: string, prekeyId: string, sealed: Uint8Array): Uint8Array;
  sealContent(recipientId: string, message: OpenedPlace, content: Uint8Array): Uint8Array;
  openContent(recipientId: string, message: OpenedPlace, sealed: Uint8Array): Uint8Array;
  /** Is the key of the day on which it was sealed destroyed? Nothing is opened for it. */
  isContentGone(recipientId: string, sealed: Uint8Array): boolean;
  /** What an agent said, for as long as it may have to say it anew. */
  sealSaid(message: OpenedPlace, content: Uint8Array): Uint8Array;
  openSaid(message: OpenedPlace, sealed: Uint8Array): Uint8Array;
  /**
   * HMAC-SHA256 over recipient, id and padded frame, 32 bytes, under a key derived from the sender's master key: tells a repeated command from
   * another content under the same id. The id is in it so that nobody who reads the table sees which of an agent's messages are the same.
   */
  commandMac(command: MacCommand, frame: Uint8Array): Uint8Array;
  close(): void;
}

export interface OpenedPlace {
  readonly senderId: string;
  readonly messageId: string;
}

/** `now`: milliseconds since the epoch. The keyring stays the caller's to close. */
export function openCustodyKeys(keyring: Keyring, atRest: AtRest, now: () => number = Date.now): CustodyKeys {
  const identities = new KeptKeys<Identity>(keyring, AGENTS_MAX, now);
  const macKeys = new KeptKeys<Uint8Array>(keyring, AGENTS_MAX, now);
  const macKeyOf = (agentId: string) =>
    macKeys.get(agentId, () => {
      const master = keyring.unwrap({ kind: "master", agentId });
      const key = nodePrimitives.hkdfSha256(master, EMPTY, MAC_LABEL, KEY_BYTES);
      master.fill(0);
      return key;
    });
  return {
    makeIdentity: () => {
      const identity = createIdentity(nodePrimitives, nodeRandom);
      keyring.create({ kind: "master", agentId: identity.agentId });
      return { identity, sealed: atRest.sealIdentity(identity.agentId, identity.signing.privateKey) };
    },
    openIdentity: (agentId, sealed) =>
      identities.get(agentId, () => {
        const identity = identityFromSeed(nodePrimitives, atRest.openIdentity(agentId, sealed));
        if (identity.agentId !== agentId) throw new Error("a sealed identity is another agent's");
        return identity;
      }),
    require: (agentId) => void macKeyOf(agentId),
    destroy: (agentId) => keyring.destroyMaster(agentId),
    sealState: (ownerId, peer, version) => {
      const record = encodePeer(peer);
      const sealed = atRest.seal(statePlace(ownerId, peer.agentId, version), record);
      record.fill(0);
      return sealed;
    },
    openState: ({ ownerId, peerId, version, state, isOutdated }) => {
      if (state === null) return unknownPeer(peerId);
      const record = atRest.open(statePlace(ownerId, peerId, version), state);
      try {
        const peer = readPeer(record);
        return isOutdated ? retireSessions(peer, sessionIdsOf(peer)) : peer;
      } finally {
        record.fill(0);
      }
    },
    sealPrekey: (agentId, prekeyId, privateKey) => atRest.seal(prekeyPlace(agentId, prekeyId), privateKey),
    openPrekey: (agentId, prekeyId, sealed) => atRest.open(prekeyPlace(agentId, prekeyId), sealed),
    sealContent: (recipientId, message, content) => atRest.seal(contentPlace(recipientId, message), content),
    openContent: (recipientId, message, sealed) => atRest.open(contentPlace(recipientId, message), sealed),
    isContentGone: (recipientId, sealed) => atRest.isDestroyed(recipientId, sealed),
    sealSaid: (message, content) => atRest.seal(saidPlace(message), content),
    openSaid: (message, sealed) => atRest.open(saidPlace(message), sealed),
    commandMac: ({ senderId, recipientId, messageId }, frame) => {
      const size = LENGTH_BYTES + recipientId.length + UUID_BYTES + frame.length;
      const command = new ByteWriter(size).lpAscii(recipientId).bytes(uuidToBytes(messageId)).bytes(frame);
      return nodePrimitives.hmacSha256(macKeyOf(senderId), command.finish());
    },
    close: () => {
      identities.close();
      macKeys.close();
    },
  };
}

/**
 * A state, or where it does not open what is known of a peer whose state is lost: nothing. The next session begins anew, and Repair brings what was under
 * way (docs/custody.md).
 *
 * Only for agents whose identity has been opened: otherwise it is their keys that are gone, and nothing may take the place of their states.
 */
export function openStateOrLost(keys: Pick<CustodyKeys, "openState">, state: Omit<StoredState, "generation">): Peer {
  try {
    return keys.openState(state);
  } catch (error) {
    if (error instanceof Refusal) return unknownPeer(state.peerId);
    throw error;
  }
}

function readPeer(record: Uint8Array): Peer {
  try {
    return decodePeer(record);
  } catch (error) {
    if (!(error instanceof RecordUnreadable)) throw error;
    if (error.isNewer) throw new Unavailable("service", error);
    throw new Refusal<SealedCode>("sealed-damaged");
  }
}

/** Content as it is sealed, wherever it waits: the padded frame of protocol.md §5. */
export function contentOf(frame: Frame): Uint8Array {
  return encodeFrame(frame);
}

function sessionIdsOf({ active, archived }: Peer): readonly Uint8Array[] {
  return [...(active === null ? [] : [active]), ...archived].map(({ id }) => id);
}

export function statePlace(ownerId: string, peerId: string, version: number): Place {
  return { agentId: ownerId, table: "messaging_sessions", row: [ownerId, peerId], version };
}

/** A private half never changes, and neither does content. */
const ONLY_VERSION = 1;

export function prekeyPlace(agentId: string, prekeyId: string): Place {
  return { agentId, table: "messaging_prekeys", row: [agentId, prekeyId], version: ONLY_VERSION };
}

export function saidPlace({ senderId, messageId }: OpenedPlace): Place {
  return { agentId: senderId, table: "messaging_commands", row: [senderId, messageId], version: ONLY_VERSION };
}

export function contentPlace(recipientId: string, { senderId, messageId }: OpenedPlace): Place {
  const row = [recipientId, senderId, messageId];
  return { agentId: recipientId, table: "messaging_opened", row, version: ONLY_VERSION };
}
