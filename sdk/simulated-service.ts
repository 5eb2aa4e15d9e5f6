/**
 * The service in memory, behind the port that agents use, and the network between: for simulations of agents' lives.
 *
 * The service is honest and keeps what it promises (docs/stream.md, docs/api.md): what it has taken waits 30 days, in an order of its own for each recipient,
 * until its end; one-time prekeys are handed out once, oldest first; the same request is answered the same. It never sets items aside. The network may
 * do what it likes, as far as `Weather` lets it; all of it happens by the chances it was given.
 */
import { decodeEnvelope } from "../protocol/envelope.ts";
import type { Identity } from "../protocol/identity.ts";
import { DAY_MS, ONE_TIME_PREKEY_HANDED_OUT_MS, PREKEY_AHEAD_MS_MAX } from "../protocol/limits.ts";
import { messageIdTime } from "../protocol/message-id.ts";
import { prekeyStockDigest } from "../protocol/prekey-stock.ts";
import type { Bundle, KemPrekey, OneTimePrekey, SignedPrekey } from "../protocol/prekeys.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { type RetryRequest, retryRequestToJson } from "../protocol/retry-request.ts";
import {
  CLOSE_SUPERSEDED,
  type ClientFrame,
  type ItemFrame,
  type NoticeFrame,
  type ReceiptFrame,
  type SendFrame,
  type ServerFrame,
  type StreamItemId,
} from "../protocol/stream-frames.ts";
import type { Chance } from "./chance.ts";
import { ServiceRefused, ServiceUnavailable } from "./errors.ts";
import { delay } from "./patience.ts";
import type {
  HeldPrekeys,
  MessageOutcome,
  PrekeyUpload,
  SentSession,
  SentSessionsPage,
  Service,
  StreamConnection,
  StreamHandlers,
} from "./service.ts";

const TTL_MS = 30 * DAY_MS;
const REMEMBERED_MS = 40 * DAY_MS;
const ID_AGE_MS_MAX = 7 * DAY_MS;
const ID_AHEAD_MS_MAX = 5 * 60_000;

/** Items unanswered on one connection. */
const WINDOW_MAX = 256;

/** Small, so that short lives have several. */
const SESSIONS_PAGE_MAX = 2;

/** Between one recipient and one sender. */
const RETRIES_PER_HOUR_MAX = 60;
const HOUR_MS = 3_600_000;

const CLOSE_GOODBYE = 1000;
const CLOSE_BROKEN = 1006;

/** How much longer an item takes that others overtake. */
const LATE_MS_MAX = 2_000;

/** Probabilities from 0 to 1, each for one call, message of the stream or item. */
export interface Weather {
  /** A call does not reach the service. */
  readonly callLost: number;
  /** It does, and its answer is lost. */
  readonly answerLost: number;
  /** The connection breaks, and what is on it is lost. */
  readonly cut: number;
  readonly itemRepeated: number;
  /** It comes after those that follow it. */
  readonly itemLate: number;
  /** It comes on the next connection. */
  readonly itemWithheld: number;
  readonly receiptLost: number;
  /** The service cannot take a batch now. */
  readonly overloaded: number;
  /** A bundle comes without one-time prekeys: its owner was asked by too many. */
  readonly overBudget: number;
  readonly latencyMsMax: number;
}

export const CALM: Weather = {
  callLost: 0,
  answerLost: 0,
  cut: 0,
  itemRepeated: 0,
  itemLate: 0,
  itemWithheld: 0,
  receiptLost: 0,
  overloaded: 0,
  overBudget: 0,
  latencyMsMax: 5,
};

interface Stored<Prekey> {
  readonly prekey: Prekey;
  readonly storedAt: number;
}

interface Account {
  readonly identityKey: Uint8Array;
  signedPrekey: SignedPrekey | null;
  lastResort: KemPrekey | null;
  oneTime: Stored<OneTimePrekey>[];
  kem: Stored<KemPrekey>[];
  /** Ids of all prekeys that were ever published. */
  readonly published: Set<string>;
  readonly claims: Map<string, Bundle>;
  mailbox: ItemFrame[];
  lastSeq: number;
  connection: SimulatedConnection | null;
  /** The latest message of each of its sessions, the newest last. */
  readonly sessions: Map<string, SentSession>;
}

/** What the service knows of a message. */
export interface Message {
  readonly senderId: string;
  readonly recipientId: string;
  readonly bytes: Uint8Array;
  status: MessageOutcome["status"];
  code: string | null;
}

/** What a simulation sees of the service. */
interface Witness {
  readonly onTaken: (message: Message, messageId: string) => void;
  readonly onEnded: (message: Message) => void;
  readonly onRetryRequested: () => void;
}

/** What is remembered between lives that begin alike: accounts as they are, without connections. */
export type Accounts = ReadonlyMap<string, Account>;

export class SimulatedService {
  readonly messages = new Map<string, Message>();
  weather: Weather = CALM;
  isAway = false;
  witness: Witness = { onTaken: nothing, onEnded: nothing, onRetryRequested: nothing };
  readonly #accounts: Map<string, Account>;
  readonly #chance: Chance;
  readonly #retryTimes = new Map<string, number[]>();

  /** `accounts`: what `accounts()` of another service gave. */
  constructor(chance: Chance, accounts: Accounts = new Map()) {
    this.#chance = chance;
    this.#accounts = new Map([...accounts].map(([id, account]) => [id, copyOf(account)]));
  }

  get chance(): Chance {
    return this.#chance;
  }

  accounts(): Accounts {
    return this.#accounts;
  }

  account(agentId: string): Account {
    const account = this.#accounts.get(agentId);
    if (account === undefined) throw refusal("agent-unknown", 401);
    return account;
  }

  /** The way of one process of this agent to the service. */
  link(me: Identity, signal: AbortSignal): Link {
    return new Link(this, me, signal);
  }

  /** Breaks the connection of an agent, or of all. */
  cut(agentId?: string): void {
    const cut = agentId === undefined ? [...this.#accounts.values()] : [this.account(agentId)];
    for (const { connection } of cut) connection?.end(CLOSE_BROKEN);
  }

  notify(agentId: string, kind: NoticeFrame["kind"]): void {
    this.account(agentId).connection?.deliver([{ type: "notice", kind }]);
  }

  /** Hands out one-time prekeys to strangers who never write. Their ids. */
  drain(agentId: string, count: number): string[] {
    const account = this.account(agentId);
    const drained = [...account.oneTime.splice(0, count), ...account.kem.splice(0, count)];
    return drained.map(({ prekey }) => prekey.id);
  }

  /** Items that have waited for 30 days end. */
  expire(now: number): void {
    for (const [recipientId, { mailbox }] of this.#accounts) {
      const expired = mailbox.filter(({ itemId }) => (messageIdTime(itemId) ?? now) + TTL_MS <= now);
      for (const item of expired) this.end(recipientId, item, "expired", null);
    }
    for (const messageId of this.messages.keys()) {
      if ((messageIdTime(messageId) ?? now) + REMEMBERED_MS < now) this.messages.delete(messageId);
    }
  }

  register({ agentId, signing }: Identity): void {
    if (this.#accounts.has(agentId)) return;
    this.#accounts.set(agentId, {
      identityKey: signing.publicKey,
      signedPrekey: null,
      lastResort: null,
      oneTime: [],
      kem: [],
      published: new Set(),
      claims: new Map(),
      mailbox: [],
      lastSeq: 0,
      connection: null,
      sessions: new Map(),
    });
  }

  upload(
    agentId: string,
    { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys, replace }: PrekeyUpload,
  ): void {
    const account = this.account(agentId);
    const storedAt = Date.now();
    const isNew = ({ id }: { readonly id: string }) => !account.published.has(id);
    if (signedPrekey.createdAt > storedAt + PREKEY_AHEAD_MS_MAX) throw refusal("prekey-created-in-future", 422);
    if (isNew(signedPrekey)) account.signedPrekey = signedPrekey;
    if (isNew(lastResortKemPrekey)) account.lastResort = lastResortKemPrekey;
    const isUploaded = ({ prekey }: Stored<OneTimePrekey>) =>
      [...oneTimePrekeys, ...kemPrekeys].some(({ id }) => id === prekey.id);
    if (replace) {
      account.oneTime = account.oneTime.filter(isUploaded);
      account.kem = account.kem.filter(isUploaded);
    }
    account.oneTime.push(...oneTimePrekeys.filter(isNew).map((prekey) => ({ prekey, storedAt })));
    account.kem.push(...kemPrekeys.filter(isNew).map((prekey) => ({ prekey, storedAt })));
    for (const { id } of [signedPrekey, lastResortKemPrekey, ...oneTimePrekeys, ...kemPrekeys])
      account.published.add(id);
  }

  stock(agentId: string): HeldPrekeys {
    const { signedPrekey, lastResort, oneTime, kem } = this.#fresh(agentId);
    const stock = { signed: signedPrekey, lastResort, oneTime: prekeysOf(oneTime), kem: prekeysOf(kem) };
    return {
      signedCreatedAt: signedPrekey?.createdAt ?? null,
      hasLastResort: lastResort !== null,
      oneTime: oneTime.length,
      kem: kem.length,
      digest: prekeyStockDigest(nodePrimitives, stock),
    };
  }

  claim(claimerId: string, targetId: string, requestId: string): Bundle {
    if (!this.#accounts.has(targetId)) throw refusal("recipient-unknown", 404);
    const target = this.#fresh(targetId);
    const name = `${claimerId}/${requestId}`;
    const earlier = target.claims.get(name);
    if (earlier !== undefined) return earlier;
    const { signedPrekey, lastResort } = target;
    if (signedPrekey === null || lastResort === null) throw refusal("prekeys-unavailable", 404);
    const isOverBudget = this.#chance.happens(this.weather.overBudget);
    const bundle: Bundle = {
      agentId: targetId,
      identityKey: target.identityKey,
      signedPrekey,
      oneTimePrekey: (isOverBudget ? undefined : target.oneTime.shift())?.prekey ?? null,
      kemPrekey: (isOverBudget ? undefined : target.kem.shift())?.prekey ?? lastResort,
    };
    target.claims.set(name, bundle);
    return bundle;
  }

  outcomes(senderId: string, messageIds: readonly string[]): MessageOutcome[] {
    return messageIds.flatMap((messageId) => {
      const message = this.messages.get(messageId);
      if (message?.senderId !== senderId) return [];
      return [{ messageId, status: message.status, code: message.code }];
    });
  }

  sentSessions(senderId: string, cursor: string | null): SentSessionsPage {
    const newestFirst = [...this.account(senderId).sessions.values()].reverse();
    const from = Number(cursor ?? 0);
    const to = from + SESSIONS_PAGE_MAX;
    return { sessions: newestFirst.slice(from, to), cursor: to < newestFirst.length ? String(to) : null };
  }

  requestRetry(callerId: string, itemId: string, request: RetryRequest): void {
    const { senderId, messageId } = request;
    const fault = faultOfTime(itemId);
    if (fault !== null) throw refusal(fault, 422);
    if (this.messages.get(messageId)?.recipientId !== callerId) throw refusal("message-unknown", 404);
    this.#countRetry(`${callerId}/${senderId}`);
    this.witness.onRetryRequested();
    this.put(senderId, { kind: "retry", senderId: callerId, itemId, body: jsonBytes(retryRequestToJson(request)) });
  }

  /** All or nothing. The answer's frame. */
  take(senderId: string, { batch, envelopes }: SendFrame): ServerFrame {
    const reject = (code: string, status: number, more: object = {}): ServerFrame => ({
      type: "rejected",
      batch,
      problem: { code, status, retryable: status >= 500, ...more },
    });
    if (this.isAway || this.#chance.happens(this.weather.overloaded)) return reject("overloaded", 503);
    const decoded = envelopes.map((bytes) => ({ bytes: bytes.slice(), ...decodeEnvelope(bytes) }));
    const faults = decoded.flatMap(({ messageId, recipientId, bytes }, index) => {
      const known = this.messages.get(messageId);
      const isReused = known !== undefined && Buffer.compare(known.bytes, bytes) !== 0;
      const unknown = this.#accounts.has(recipientId) ? null : "recipient-unknown";
      const code = isReused ? "message-id-reused" : (faultOfTime(messageId) ?? unknown);
      return code === null ? [] : [{ pointer: `/envelopes/${index}`, code }];
    });
    if (faults[0] !== undefined) return reject(faults[0].code, 422, { errors: faults });
    for (const { messageId, recipientId, sessionId, bytes } of decoded) {
      if (this.messages.has(messageId)) continue;
      const message: Message = { senderId, recipientId, bytes, status: "queued", code: null };
      this.messages.set(messageId, message);
      const { sessions } = this.account(senderId);
      const name = Buffer.from(sessionId).toString("hex");
      sessions.delete(name);
      sessions.set(name, { peerId: recipientId, sessionId: sessionId.slice(), messageId, lastAt: Date.now() });
      this.witness.onTaken(message, messageId);
      this.put(recipientId, { kind: "message", senderId, itemId: messageId, body: bytes });
    }
    return { type: "accepted", batch };
  }

  /** Puts an item into a mailbox, unless it waits there already. */
  put(recipientId: string, item: Omit<ItemFrame, "type" | "seq">): void {
    const account = this.account(recipientId);
    if (account.mailbox.some(({ senderId, itemId }) => itemId === item.itemId && senderId === item.senderId)) return;
    account.lastSeq += 1;
    account.mailbox.push({ type: "item", seq: account.lastSeq, ...item });
    account.connection?.look();
  }

  /** The first end wins. */
  end(recipientId: string, { senderId, itemId }: StreamItemId, status: Message["status"], code: string | null): void {
    const account = this.account(recipientId);
    const at = account.mailbox.findIndex((item) => item.itemId === itemId && item.senderId === senderId);
    if (at < 0) return;
    account.mailbox.splice(at, 1);
    this.tell(itemId, status, code);
  }

  /** To its sender, if that is connected. */
  tell(messageId: string, status: Message["status"], code: string | null): void {
    const message = this.messages.get(messageId);
    if (message === undefined) return;
    message.status = status;
    message.code = code;
    const isHint = status === "delivered";
    if (!isHint) this.witness.onEnded(message);
    if (this.#chance.happens(this.weather.receiptLost)) return;
    const told: ReceiptFrame["status"] = isHint || status === "acknowledged" ? status : "discarded";
    const { recipientId } = message;
    const ended = code ?? (told === "discarded" ? status : null);
    const receipt: ReceiptFrame = {
      type: "receipt",
      status: told,
      recipientId,
      messageId,
      at: Date.now(),
      code: ended,
    };
    this.account(message.senderId).connection?.deliver([receipt]);
  }

  #fresh(agentId: string): Account {
    const account = this.account(agentId);
    const isFresh = ({ storedAt }: Stored<unknown>) => Date.now() - storedAt < ONE_TIME_PREKEY_HANDED_OUT_MS;
    account.oneTime = account.oneTime.filter(isFresh);
    account.kem = account.kem.filter(isFresh);
    return account;
  }

  #countRetry(pair: string): void {
    const now = Date.now();
    const lately = (this.#retryTimes.get(pair) ?? []).filter((time) => now - time < HOUR_MS);
    const [first] = lately;
    if (first !== undefined && lately.length >= RETRIES_PER_HOUR_MAX) {
      const cause = refusal("rate-limited", 429, true);
      throw new ServiceUnavailable({ cause, retryAfterMs: first + HOUR_MS - now });
    }
    this.#retryTimes.set(pair, [...lately, now]);
  }
}

/** What one process of an agent has of the service, until it is severed: from then on nothing it does has any effect. */
export class Link implements Service {
  readonly #service: SimulatedService;
  readonly #me: Identity;
  readonly #signal: AbortSignal;
  #connection: SimulatedConnection | null = null;
  #isSevered = false;

  constructor(service: SimulatedService, me: Identity, signal: AbortSignal) {
    this.#service = service;
    this.#me = me;
    this.#signal = signal;
  }

  /** Its process has died. */
  sever(): void {
    this.#isSevered = true;
    this.#connection?.end(CLOSE_BROKEN);
  }

  register(): Promise<void> {
    return this.#call(() => this.#service.register(this.#me));
  }

  uploadPrekeys(upload: PrekeyUpload): Promise<void> {
    return this.#call((agentId) => this.#service.upload(agentId, upload));
  }

  prekeyStock(): Promise<HeldPrekeys> {
    return this.#call((agentId) => this.#service.stock(agentId));
  }

  claimBundle(agentId: string, requestId: string): Promise<Bundle> {
    return this.#call((claimerId) => this.#service.claim(claimerId, agentId, requestId));
  }

  get policies(): never {
    throw new Error("policies are not simulated");
  }

  async revokeDelegation(): Promise<never> {
    throw new Error("no life delegates");
  }

  async pairSessions(): Promise<never> {
    throw new Error("no life asks for it");
  }

  async usage(): Promise<never> {
    throw new Error("no life asks for it");
  }

  messageOutcomes(messageIds: readonly string[]): Promise<MessageOutcome[]> {
    return this.#call((agentId) => this.#service.outcomes(agentId, messageIds));
  }

  sentSessions(cursor: string | null): Promise<SentSessionsPage> {
    return this.#call((agentId) => this.#service.sentSessions(agentId, cursor));
  }

  requestRetry(itemId: string, request: RetryRequest): Promise<void> {
    return this.#call((agentId) => this.#service.requestRetry(agentId, itemId, request));
  }

  async openStream(handlers: StreamHandlers): Promise<void> {
    await this.#call((agentId) => {
      const account = this.#service.account(agentId);
      account.connection?.end(CLOSE_SUPERSEDED);
      this.#connection = new SimulatedConnection(this.#service, agentId, handlers);
      account.connection = this.#connection;
    }, true);
    const connection = this.#connection as SimulatedConnection | null;
    handlers.onOpen(connection as SimulatedConnection);
    connection?.look();
    // It may have broken before it was open.
    connection?.checkOpen();
  }

  /** `isAtomic`: an answer that is lost means that nothing was done. */
  async #call<Answer>(work: (agentId: string) => Answer, isAtomic = false): Promise<Answer> {
    const { weather, chance } = this.#service;
    await this.#travel();
    const isLost = chance.happens(weather.callLost) || (isAtomic && chance.happens(weather.answerLost));
    if (this.#isSevered || this.#service.isAway || isLost) throw new ServiceUnavailable();
    this.#service.expire(Date.now());
    const answer = work(this.#me.agentId);
    if (isAtomic) return answer;
    await this.#travel();
    if (chance.happens(weather.answerLost)) throw new ServiceUnavailable();
    return answer;
  }

  #travel(): Promise<void> {
    return delay(1 + this.#service.chance.below(this.#service.weather.latencyMsMax), this.#signal);
  }
}

class SimulatedConnection implements StreamConnection {
  readonly #service: SimulatedService;
  readonly #agentId: string;
  readonly #handlers: StreamHandlers;
  readonly #arrivals = { client: 0, server: 0 };
  readonly #unanswered = new Set<string>();
  #lastSent = 0;
  #ended: number | null = null;
  #isOpen = false;

  constructor(service: SimulatedService, agentId: string, handlers: StreamHandlers) {
    this.#service = service;
    this.#agentId = agentId;
    this.#handlers = handlers;
  }

  send(frames: readonly ClientFrame[]): void {
    this.#carry("server", () => {
      for (const frame of frames) this.#take(frame);
      this.look();
    });
  }

  close(): void {
    this.end(CLOSE_GOODBYE);
  }

  terminate(): void {
    this.end(CLOSE_BROKEN);
  }

  end(code: number): void {
    if (this.#ended !== null) return;
    this.#ended = code;
    const account = this.#service.account(this.#agentId);
    if (account.connection === this) account.connection = null;
    if (this.#isOpen) setTimeout(() => this.#handlers.onClose(code), 0);
  }

  /** Its agent knows of it from now on. */
  checkOpen(): void {
    this.#isOpen = true;
    const code = this.#ended;
    if (code !== null) setTimeout(() => this.#handlers.onClose(code), 0);
  }

  deliver(frames: readonly ServerFrame[]): void {
    this.#carry("client", () => this.#handlers.onFrames(frames));
  }

  /** Sends what waits and fits the window. */
  look(): void {
    if (this.#ended !== null) return;
    const { weather, chance } = this.#service;
    const { mailbox } = this.#service.account(this.#agentId);
    const together: ItemFrame[] = [];
    for (const item of mailbox) {
      if (item.seq <= this.#lastSent) continue;
      if (this.#unanswered.size >= WINDOW_MAX) break;
      this.#lastSent = item.seq;
      if (chance.happens(weather.itemWithheld)) continue;
      this.#unanswered.add(nameOf(item));
      if (chance.happens(weather.itemLate)) this.#deliverLate(item);
      else together.push(item);
      if (chance.happens(weather.itemRepeated)) this.#deliverLate(item);
    }
    if (together.length === 0) return;
    this.deliver(together);
    for (const { itemId } of together) this.#markDelivered(itemId);
  }

  #markDelivered(itemId: string): void {
    if (this.#service.messages.get(itemId)?.status === "queued") this.#service.tell(itemId, "delivered", null);
  }

  #deliverLate(item: ItemFrame): void {
    setTimeout(() => this.deliver([item]), this.#service.chance.below(LATE_MS_MAX));
  }

  /** In order, unless the connection breaks first. */
  #carry(to: "client" | "server", arrive: () => void): void {
    if (this.#ended !== null) return;
    const { weather, chance } = this.#service;
    if (chance.happens(weather.cut)) {
      this.end(CLOSE_BROKEN);
      return;
    }
    const now = Date.now();
    const at = Math.max(this.#arrivals[to], now + 1 + chance.below(weather.latencyMsMax));
    this.#arrivals[to] = at;
    setTimeout(() => {
      if (this.#ended === null) arrive();
    }, at - now);
  }

  #take(frame: ClientFrame): void {
    if (frame.type === "send") this.deliver([this.#service.take(this.#agentId, frame)]);
    if (frame.type === "ack") for (const item of frame.items) this.#end(item, "acknowledged", null);
    if (frame.type === "refuse") this.#end(frame, "refused", frame.code);
  }

  #end(item: StreamItemId, status: Message["status"], code: string | null): void {
    this.#unanswered.delete(nameOf(item));
    this.#service.end(this.#agentId, item, status, code);
  }
}

function nameOf({ senderId, itemId }: StreamItemId): string {
  return `${senderId}/${itemId}`;
}

function copyOf(account: Account): Account {
  return {
    ...account,
    oneTime: [...account.oneTime],
    kem: [...account.kem],
    published: new Set(account.published),
    claims: new Map(account.claims),
    mailbox: [...account.mailbox],
    sessions: new Map(account.sessions),
    connection: null,
  };
}

function prekeysOf<Prekey>(stored: readonly Stored<Prekey>[]): Prekey[] {
  return stored.map(({ prekey }) => prekey);
}

function faultOfTime(itemId: string): string | null {
  const age = Date.now() - (messageIdTime(itemId) ?? 0);
  if (age > ID_AGE_MS_MAX) return "message-id-too-old";
  return -age > ID_AHEAD_MS_MAX ? "message-id-in-future" : null;
}

function refusal(code: string, status: number, retryable = false): ServiceRefused {
  return new ServiceRefused({
    code,
    status,
    retryable,
    field: null,
    fix: null,
    rule: null,
    itemFaults: [],
    retryAfterMs: null,
  });
}

function jsonBytes(json: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(json));
}

function nothing(): void {}
