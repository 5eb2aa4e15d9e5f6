/**
 * The keys of agents whose custody the service has, and everything that is sealed under them.
 *
 * Promises: what was sealed opens only in its own row and version (store/at-rest.ts). An identity that was opened is kept for a minute, and not
 * after something was destroyed. Every method throws `Unavailable` while the keyring is away, and Refusals of `SealedCode`.
 */
import { ByteWriter, EMPTY, label } from "../../protocol/bytes.ts";
import { encodeFrame, type Frame } from "../../protocol/frame.ts";
import { createIdentity, type Identity, identityFromSeed } from "../../protocol/identity.ts";
import { type Peer, unknownPeer } from "../../protocol/peer.ts";
import { decodePeer, encodePeer } from "../../protocol/peer-record.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { UUID_BYTES, uuidToBytes } from "../../protocol/uuid.ts";
import type { AtRest, Place } from "../at-rest.ts";
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
  /** The agent of this id gets no keys any more; everything of it is lost. */
  destroy(agentId: string): void;
  /** `version`: the one the row will have. */
  sealState(ownerId: string, peer: Peer, version: number): Uint8Array;
  openState(state: StoredState): Peer;
  sealPrekey(agentId: string, prekeyId: string, privateKey: Uint8Array): Uint8Array;
  openPrekey(agentId: string, prekeyId: string, sealed: Uint8Array): Uint8Array;
  sealContent(recipientId: string, message: OpenedPlace, content: Uint8Array): Uint8Array;
  openContent(recipientId: string, message: OpenedPlace, sealed: Uint8Array): Uint8Array;
  /**
   * HMAC-SHA256 over recipient, id and padded frame, 32 bytes, under a key derived from the sender's master key: tells a repeated command from
   * another content under the same id. The id is in it so that nobody who reads the log sees which of an agent's messages are the same.
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
    destroy: (agentId) => keyring.destroyMaster(agentId),
    sealState: (ownerId, peer, version) => {
      const record = encodePeer(peer);
      const sealed = atRest.seal(statePlace(ownerId, peer.agentId, version), record);
      record.fill(0);
      return sealed;
    },
    openState: ({ ownerId, peerId, version, state }) => {
      if (state === null) return unknownPeer(peerId);
      const record = atRest.open(statePlace(ownerId, peerId, version), state);
      const peer = decodePeer(record);
      record.fill(0);
      return peer;
    },
    sealPrekey: (agentId, prekeyId, privateKey) => atRest.seal(prekeyPlace(agentId, prekeyId), privateKey),
    openPrekey: (agentId, prekeyId, sealed) => atRest.open(prekeyPlace(agentId, prekeyId), sealed),
    sealContent: (recipientId, message, content) => atRest.seal(contentPlace(recipientId, message), content),
    openContent: (recipientId, message, sealed) => atRest.open(contentPlace(recipientId, message), sealed),
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

/** Content as it is sealed, wherever it waits: the padded frame of protocol.md §5. */
export function contentOf(frame: Frame): Uint8Array {
  return encodeFrame(frame);
}

function statePlace(ownerId: string, peerId: string, version: number): Place {
  return { agentId: ownerId, table: "messaging_sessions", row: [ownerId, peerId], version };
}

/** A private half never changes, and neither does an opened content. */
const ONLY_VERSION = 1;

function prekeyPlace(agentId: string, prekeyId: string): Place {
  return { agentId, table: "messaging_prekeys", row: [agentId, prekeyId], version: ONLY_VERSION };
}

function contentPlace(recipientId: string, { senderId, messageId }: OpenedPlace): Place {
  const row = [recipientId, senderId, messageId];
  return { agentId: recipientId, table: "messaging_opened", row, version: ONLY_VERSION };
}
