/**
 * An agent: its identity, its mail, its connection. The whole of the SDK for most programs (docs/sdk.md), the same for both custodies.
 *
 * A message that `send` took is in the store until its end is known. Neither a crash at any moment nor a service that is away loses one. Who can read what is
 * sent is the custody's matter: where the agent holds its keys, its recipient alone (own-keys.ts); where the service does, whoever runs it as well (held-keys.ts).
 */
import type { Identity } from "../protocol/identity.ts";
import { type Credentials, callSigner } from "./credentials.ts";
import type { Custody } from "./custody.ts";
import { type DelegationOptions, keyIdOf, type MadeDelegation, makeDelegation } from "./delegation.ts";
import { AgentError, AgentStopped, StoreError } from "./errors.ts";
import { HeldClient } from "./held-client.ts";
import { HeldKeys } from "./held-keys.ts";
import type { HeldService } from "./held-service.ts";
import { Life, type Problem } from "./life.ts";
import { type Body, contentOf, type InboxMessage } from "./message.ts";
import { Outcomes, type Receipt } from "./outcomes.ts";
import { OwnKeys } from "./own-keys.ts";
import { abandonable } from "./patience.ts";
import type { Policies } from "./policies.ts";
import type { PairSessions, Service, UsagePage, UsagePeriod, UsageQuestion } from "./service.ts";
import { ServiceClient } from "./service-client.ts";
import type { StoreKey } from "./store/key.ts";
import type { OutboxStatus } from "./store/outbox.ts";
import { Store } from "./store/store.ts";

export type { Problem } from "./life.ts";

/** Receipts reach who is connected; one that was lost on its way is found by asking. */
const ASK_INTERVAL_MS = 5 * 60_000;

/** `close` waits this long for what is under way; the rest leaves at the next open. */
const DRAIN_MS_MAX = 5_000;

export interface AgentOptions extends Credentials {
  /** The service, such as `https://sealpost.example`. Default: the one this store's agent was opened with last. */
  readonly url?: string;
  /** The agent's store: a file of its own, made on first use. */
  readonly storePath: string;
  /** The key the store's secrets are sealed under: 32 bytes, their base64url text, or a file. Default: the file `<storePath>.key`, made on first use. */
  readonly key?: StoreKey;
  /** No session below suite 2 (PQXDH), with nobody: a peer without KEM prekeys cannot be written to (`suite-refused`). Default false. */
  readonly requirePq?: boolean;
  /**
   * Who holds the agent's keys: the agent itself ("agent": nobody else can read), or the service ("server": whoever runs it can read; docs/custody.md). Decided when the
   * agent is made; default the store's, and "agent" for a new one.
   */
  readonly custody?: "agent" | "server";
  /**
   * The chain of delegation that this agent acts under: every call presents it, and what it covers is sent for who delegated first (docs/delegation.md). The agent stops
   * with `delegation-refused` when it does not hold (any more); what was stored leaves at the next open.
   */
  readonly delegation?: string;
  /** Calls off the opening. */
  readonly signal?: AbortSignal;
}

/** @public */
export interface Waiting {
  /** Calls off the waiting, and nothing else. */
  readonly signal?: AbortSignal;
}

/** @public */
export interface SendOptions extends Waiting {
  /** Default by the body: text/plain, application/octet-stream or application/json. */
  readonly contentType?: string;
}

/** @public */
export interface OutgoingMessage extends Omit<SendOptions, "signal"> {
  readonly to: string;
  readonly body: Body;
}

/**
 * A message the service has taken.
 * @public
 */
export interface Sent {
  readonly messageId: string;
  readonly recipientId: string;
  /** It was written to a connection of the recipient. Rejects like `acknowledged`. */
  delivered(options?: Waiting): Promise<void>;
  /** The recipient has decrypted it and is done with it. Rejects with `MessageDiscarded` when that will never be, and with `AgentStopped`. */
  acknowledged(options?: Waiting): Promise<void>;
}

/** How to reach the service, for an agent that has its identity. */
type Connect = (me: Identity, signal: AbortSignal) => Service;

/** The same for an agent whose keys the service holds; it calls with its access key. */
type ConnectHeld = (access: Identity, signal: AbortSignal) => HeldService;

type Circumstances = Pick<AgentOptions, "requirePq" | "signal" | "signingKey"> & {
  /** How the service is named in the store. */
  readonly origin: string;
};

interface Parts {
  readonly store: Store;
  readonly outcomes: Outcomes;
  readonly life: Life;
  readonly credentials: Credentials;
}

export class Agent {
  readonly #custody: Custody;
  readonly #store: Store;
  readonly #outcomes: Outcomes;
  readonly #life: Life;
  /** Who holds its keys: the agent itself, or the service, whose operator can then read its messages. */
  readonly custody: "agent" | "server";
  /** Names the key that this agent signs its calls with: its id, unless it was opened with a signing key or the service holds its keys. For those who delegate to it. */
  readonly keyId: string;
  #closing: Promise<void> | null = null;

  private constructor(custody: Custody, { store, outcomes, life, credentials }: Parts) {
    this.#custody = custody;
    this.#store = store;
    this.#outcomes = outcomes;
    this.#life = life;
    this.custody = store.accounts.custody();
    this.keyId = keyIdOf(callSigner(this.#signer(), credentials));
    life.atEnd((error) => outcomes.stop(error));
  }

  /**
   * Opens the agent of this store, or makes a new one and registers it with the service. An agent that was
   * registered before opens without the service as well, and connects when it can.
   *
   * Throws a `StoreError`, a `ServiceUnavailable`, `ServiceRefused` or `ClockSkew`, and the signal's reason.
   */
  static async open(options: AgentOptions): Promise<Agent> {
    options.signal?.throwIfAborted();
    const { storePath: path, key } = options;
    const given = options.url === undefined ? null : serviceUrl(options.url);
    const store = Store.open({ path, ...(key === undefined ? {} : { key }) });
    const { base, custody } = settled(store, () => ({
      base: given ?? serviceUrl(store.accounts.home() ?? ""),
      custody: custodyOf(store, options.custody),
    }));
    const circumstances = { ...options, origin: base.origin };
    const agent = await (custody === "server"
      ? Agent.held(store, (access, signal) => new HeldClient(base, access, signal, options), circumstances)
      : Agent.over(store, (me, signal) => new ServiceClient(base, me, signal, options), circumstances));
    if (store.accounts.home() !== base.href) await store.commit(() => store.accounts.setHome(base.href));
    return agent;
  }

  /**
   * The thumbprint of the key that the agent of this store registers with, which its owner's statement must name; a new store gets one. The service is not asked.
   *
   * Throws a `StoreError`.
   */
  static async keyId(options: Pick<AgentOptions, "storePath" | "key" | "custody">): Promise<string> {
    const { storePath: path, key } = options;
    const store = Store.open({ path, ...(key === undefined ? {} : { key }) });
    try {
      const { accounts } = store;
      const custody = custodyOf(store, options.custody);
      const me = accounts.identity() ?? (await store.commit(() => accounts.createIdentity(Date.now(), custody)));
      return me.agentId;
    } finally {
      store.close();
    }
  }

  /**
   * The same over a store that is open, which it closes, and any service; `origin` names that in the store.
   * @internal
   */
  static over(store: Store, connect: Connect, circumstances: Circumstances): Promise<Agent> {
    const { origin, requirePq = false } = circumstances;
    return Agent.#begin(store, "agent", circumstances, (me, parts) => {
      const service = connect(me, parts.life.signal);
      return new OwnKeys({ ...parts, me, service, origin, requirePq });
    });
  }

  /**
   * The same for an agent whose keys the service holds.
   * @internal
   */
  static held(store: Store, connect: ConnectHeld, circumstances: Circumstances): Promise<Agent> {
    const { origin } = circumstances;
    return Agent.#begin(store, "server", circumstances, (access, parts) => {
      const service = connect(access, parts.life.signal);
      return new HeldKeys({ ...parts, service, origin });
    });
  }

  static async #begin(
    store: Store,
    who: "agent" | "server",
    { signal, signingKey }: Circumstances,
    custodyOver: (me: Identity, parts: Parts) => Custody,
  ): Promise<Agent> {
    const life = new Life();
    try {
      const { accounts } = store;
      const me = accounts.identity() ?? (await store.commit(() => accounts.createIdentity(Date.now(), who)));
      const credentials = signingKey === undefined ? {} : { signingKey };
      const parts = { store, outcomes: new Outcomes(store), life, credentials };
      const custody = custodyOver(me, parts);
      await abandonable(custody.begin(), signal);
      const agent = new Agent(custody, parts);
      custody.start();
      life.every(ASK_INTERVAL_MS, () => life.background(agent.refresh()));
      return agent;
    } catch (error) {
      life.abandon(error);
      store.close();
      throw error;
    }
  }

  /** The agent's id: what others send to. */
  get id(): string {
    return this.#custody.agentId;
  }

  /**
   * Sends to one agent; resolves when the service has the message. From the moment it is stored here (before anything is
   * sent) it will be sent, also when this call is called off, the service is away or the process dies.
   *
   * Rejects with `SendRejected` when it will never be taken; `AgentStopped`, and it leaves at the next open if it was stored; `StoreError`; the signal's reason.
   */
  async send(to: string, body: Body, { contentType, signal }: SendOptions = {}): Promise<Sent> {
    this.#life.signal.throwIfAborted();
    if (this.#closing !== null) throw new AgentStopped("closed");
    const stored = this.#custody.store(to, contentOf(body, contentType), signal);
    const messageId = await abandonable(stored, signal);
    const accepted = this.#outcomes.accepted(messageId);
    this.#custody.pump();
    await abandonable(this.#life.track(accepted), signal);
    return {
      messageId,
      recipientId: to,
      delivered: (options) => this.#outcomes.reached(messageId, "delivered", options?.signal),
      acknowledged: (options) => this.#outcomes.reached(messageId, "acknowledged", options?.signal),
    };
  }

  /** Many at once, each with its own outcome, in the order given. */
  sendMany(messages: readonly OutgoingMessage[], waiting: Waiting = {}): Promise<PromiseSettledResult<Sent>[]> {
    return Promise.allSettled(
      messages.map(({ to, body, ...options }) => this.send(to, body, { ...options, ...waiting })),
    );
  }

  /**
   * Messages for this agent, in the order of its mailbox. One is acknowledged when the next is asked for (or by `message.ack()`); one
   * whose loop body throws, or is left, is not: it comes again, first, in the next loop or at the next open.
   *
   * Ends when the signal aborts and when the agent is closed; throws `AgentStopped` when the agent stops otherwise.
   */
  inbox({ signal }: Waiting = {}): AsyncGenerator<InboxMessage, void, undefined> {
    return this.#custody.messages(signal);
  }

  /** What becomes of sent messages, from now on. A listener that is 10,000 behind misses the oldest: `status` knows them. */
  receipts({ signal }: Waiting = {}): AsyncGenerator<Receipt, void, undefined> {
    return this.#outcomes.listen(signal);
  }

  /** Messages that did not open, and troubles that the agent gets over by itself: the last 100, and from now on. */
  problems({ signal }: Waiting = {}): AsyncGenerator<Problem, void, undefined> {
    return this.#life.problems.subscribe(signal);
  }

  /** What became of a message; null when it is not one of this store, or ended more than 40 days ago. */
  status(messageId: string): OutboxStatus | null {
    return this.#store.outbox.status(messageId);
  }

  /** Asks the service now what became of the messages whose end is not known; `status` has it then. Rejects with what the service says. */
  refresh(): Promise<void> {
    return this.#outcomes.ask(this.#custody.service);
  }

  /** What the service knows of the sessions with a peer, and who can read what is said in them. */
  sessions(peerId: string): Promise<PairSessions> {
    return this.#custody.service.pairSessions(peerId);
  }

  /** Whom this agent lets in, its contacts, and asking to be one (docs/policies.md). */
  get policies(): Policies {
    return this.#custody.service.policies;
  }

  /** What this agent used, by the hour or by the day, the earliest first; without times in which nothing was counted. Rejects with what the service says. */
  async usage(question: UsageQuestion = {}): Promise<UsagePeriod[]> {
    const periods: UsagePeriod[] = [];
    for (let cursor: string | null = null; ; ) {
      const page: UsagePage = await this.#custody.service.usage(question, cursor);
      periods.push(...page.periods);
      if (page.cursor === null) return periods;
      cursor = page.cursor;
    }
  }

  /**
   * Begins a session with a peer ahead of the first message, if there is none, so that it waits for nothing; its id. Rejects with `SendRejected` where none can be
   * begun.
   */
  beginSession(peerId: string, { signal }: Waiting = {}): Promise<string> {
    const begun = this.#custody.beginSession(peerId).then((id) => Buffer.from(id).toString("base64url"));
    return abandonable(this.#life.track(begun), signal);
  }

  /** Lets another agent act for this one, within limits and for a time (docs/delegation.md). The service is not asked. Rejects with `delegation-malformed`, `delegation-refused`, `AgentStopped`. */
  async delegate(options: DelegationOptions): Promise<MadeDelegation> {
    if (this.#closing !== null) throw new AgentStopped("closed");
    const home = this.#store.accounts.home();
    if (home === null) throw new AgentError("delegation-malformed", "this agent has no service to delegate at");
    return makeDelegation(this.#signer(), new URL(home).host, options);
  }

  /** Takes a delegation of this agent's back: within 5 s no chain with it is taken any more. Harmless when repeated. */
  revokeDelegation(tokenId: string): Promise<void> {
    return this.#custody.service.revokeDelegation(tokenId);
  }

  /** Resolves when the service is there. */
  connected({ signal }: Waiting = {}): Promise<void> {
    return abandonable(this.#custody.connected(), signal);
  }

  /** Waits for what is on its way (up to five seconds, unless told otherwise), disconnects, and frees the store for the next. */
  close({ drainMsMax = DRAIN_MS_MAX }: { readonly drainMsMax?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(drainMsMax);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #signer() {
    const identity = this.#store.accounts.identity();
    if (identity === null) throw new Error("an agent has an identity");
    return { agentId: this.id, signing: identity.signing };
  }

  async #close(drainMsMax: number): Promise<void> {
    this.#custody.endInbox(new AgentStopped("closed"));
    if (this.#custody.isConnected && !this.#life.signal.aborted) {
      // The answers of what was just handled leave as well.
      await this.#store.commit(() => {}).catch(() => {});
      this.#custody.flush();
      await this.#life.drained(drainMsMax);
      this.#custody.flush();
    }
    this.#life.stop(new AgentStopped("closed"));
    await this.#custody.disconnected;
    this.#store.close();
  }
}

/** Closes the store when there is no way to go on with it. */
function settled<T>(store: Store, work: () => T): T {
  try {
    return work();
  } catch (error) {
    store.close();
    throw error;
  }
}

/** Of the store, once it has an agent. */
function custodyOf(store: Store, wanted: AgentOptions["custody"]): "agent" | "server" {
  const { accounts } = store;
  const made = accounts.identity() === null ? null : accounts.custody();
  if (made === null || wanted === undefined || wanted === made) return made ?? wanted ?? "agent";
  const message =
    made === "agent"
      ? "the agent of this store holds its keys itself: open it with custody agent, or make another store"
      : "the service holds the keys of this store's agent: open it with custody server, or make another store";
  throw new StoreError("store-custody", message);
}

/** Throws `url-malformed`. */
export function serviceUrl(url: string): URL {
  const base = URL.canParse(url) ? new URL(url) : null;
  if (base?.protocol === "https:" || base?.protocol === "http:") return base;
  throw new AgentError("url-malformed", "the service's url is not an http or https url");
}
