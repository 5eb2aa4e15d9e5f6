/**
 * What a step needs to know for Repair (protocol.md §4): of messages that did not open, of requests that wait in mailboxes, and of what was said and may be
 * said anew; and what becomes of it.
 */
import { decodeEnvelope } from "../../protocol/envelope.ts";
import { REPAIRS_MAX } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import type { Peer } from "../../protocol/peer.ts";
import type { RetryRequest } from "../../protocol/retry-request.ts";
import type { MessageSend } from "../../schemas/values.ts";
import {
  CONTENT_AGE_MS_MAX,
  type KeptChange,
  type KeptMessage,
  type RecalledCommand,
} from "../../store/custody/commands.ts";
import type { FailedMessage } from "../../store/custody/failed.ts";
import type { StoredRequest } from "../../store/custody/requests.ts";
import { type MessageKey, messageName } from "../../store/messages.ts";
import type { Tx } from "../../store/tx.ts";

/** How large content is was decided before it was encrypted. */
const anySize = { ciphertextBytesMax: Number.POSITIVE_INFINITY };

/** What the recipient of a message asks for, and what was said then: null when there is nothing to say (any more). */
type AskedAnew =
  | { readonly request: RetryRequest; readonly kept: KeptMessage }
  | { readonly request: RetryRequest | null; readonly kept: null };

export class Repairs {
  readonly #failed: ReadonlyMap<string, FailedMessage>;
  readonly #requests: ReadonlyMap<string, StoredRequest>;
  readonly #kept: Map<string, KeptMessage>;
  readonly #identityKeys: ReadonlyMap<string, Uint8Array>;
  readonly #changes = new Map<string, KeptChange>();
  readonly #now: number;

  private constructor(
    failed: readonly FailedMessage[],
    requests: readonly StoredRequest[],
    kept: readonly KeptMessage[],
    identityKeys: ReadonlyMap<string, Uint8Array>,
    now: number,
  ) {
    this.#failed = new Map(failed.map((message) => [nameOfItem(message.recipientId, message), message]));
    this.#requests = new Map(
      requests.map((item) => [nameOfItem(item.ownerId, { senderId: item.peerId, messageId: item.itemId }), item]),
    );
    this.#kept = new Map(kept.map((message) => [messageName(message), message]));
    this.#identityKeys = identityKeys;
    this.#now = now;
  }

  /** Looks up what these commands are about, one statement each. */
  static async begin(custody: Tx["custody"], commands: readonly MessageSend[], now: number): Promise<Repairs> {
    const failed = await custody.findFailed(
      abouts(commands, "retry").map(({ ownerId, peerId, aboutId }) => {
        return { recipientId: ownerId, senderId: peerId, messageId: aboutId };
      }),
    );
    const requests = await custody.findRequests(
      abouts(commands, "repair").map(({ ownerId, peerId, aboutId }) => ({ ownerId, peerId, itemId: aboutId })),
    );
    const kept = await custody.lockKept(
      requests.flatMap(({ ownerId, request }) =>
        request === null ? [] : [{ senderId: ownerId, messageId: request.messageId }],
      ),
    );
    const identityKeys = await custody.findIdentityKeys([...new Set(requests.map(({ peerId }) => peerId))]);
    return new Repairs(failed, requests, kept, identityKeys, now);
  }

  /** The message that a command asks for; null when it never failed. */
  failed({ senderId: recipientId, recipientId: senderId, aboutId }: MessageSend): FailedMessage | null {
    return this.#failed.get(nameOfItem(recipientId, { senderId, messageId: aboutId ?? "" })) ?? null;
  }

  /** What a command answers; null when the request has been answered, and does not wait any more. */
  asked({ senderId, recipientId, aboutId }: MessageSend): AskedAnew | null {
    const item = this.#requests.get(nameOfItem(senderId, { senderId: recipientId, messageId: aboutId ?? "" }));
    if (item === undefined) return null;
    const { request } = item;
    if (request === null) return { request, kept: null };
    const kept = this.#kept.get(messageName({ senderId, messageId: request.messageId }));
    if (kept === undefined || !this.#isSayable(kept, recipientId)) return { request, kept: null };
    return { request, kept };
  }

  /** The peer with its identity key, also where all that was known of it is lost: then the one it registered with, which its id proves. */
  known(peer: Peer): Peer {
    const identityKey = peer.identityKey ?? this.#identityKeys.get(peer.agentId) ?? null;
    return identityKey === peer.identityKey ? peer : { ...peer, identityKey };
  }

  /** What was said by a command that is not among those that were looked up: a recovery brought its envelope back, and it is read again in this step. */
  keep({ content, ...message }: RecalledCommand): void {
    if (content !== null) this.#kept.set(messageName(message), { ...message, content });
  }

  /** It was said anew as this message, which has the content; or, null, it never will be. */
  spend(key: MessageKey, successorId: string | null): void {
    this.#change(key, { isSpent: true, successorId, repairAt: this.#now });
  }

  /** Its request waits; before this time (ms) it need not be looked at. */
  postpone(key: MessageKey, repairAt: number): void {
    this.#change(key, { isSpent: false, successorId: null, repairAt });
  }

  #change({ senderId, messageId }: MessageKey, change: Omit<KeptChange, keyof MessageKey>): void {
    this.#changes.set(messageName({ senderId, messageId }), { senderId, messageId, ...change });
  }

  changes(): readonly KeptChange[] {
    return [...this.#changes.values()];
  }

  #isSayable(kept: KeptMessage, peerId: string): boolean {
    if (this.#changes.get(messageName(kept))?.isSpent === true || kept.repairs >= REPAIRS_MAX) return false;
    if (this.#now - (messageIdTime(kept.messageId) ?? 0) > CONTENT_AGE_MS_MAX) return false;
    return decodeEnvelope(kept.envelope, anySize).recipientId === peerId;
  }
}

function abouts(commands: readonly MessageSend[], kind: MessageSend["kind"]) {
  return commands.flatMap(({ kind: of, senderId: ownerId, recipientId: peerId, aboutId }) =>
    of === kind && aboutId !== null ? [{ ownerId, peerId, aboutId }] : [],
  );
}

function nameOfItem(ownerId: string, key: MessageKey): string {
  return `${ownerId}/${messageName(key)}`;
}
