/**
 * An agent's life in this process, whoever holds its keys: what is under way, what comes round again, what goes wrong, and the end.
 *
 * Whatever nobody awaits belongs here. A failure that passes is told as a trouble; any other ends the agent, once, with its reason.
 */
import { Channel } from "./channel.ts";
import { AgentError, AgentStopped, StoreError } from "./errors.ts";
import { delay } from "./patience.ts";
import type { NotOpened } from "./receiving.ts";

const PROBLEMS = { bufferedMax: 1_000, replayedMax: 100 };

/** Something the application may want to know, and need not do anything about. */
export type Problem =
  | { readonly type: "not-opened"; readonly at: number; readonly item: NotOpened }
  /** The connection, an upload or a question failed; it is tried again. */
  | { readonly type: "trouble"; readonly at: number; readonly error: AgentError }
  /** The store is older than what it has sent: it was copied back from a backup. The sessions concerned were retired. */
  | { readonly type: "store-rolled-back"; readonly at: number; readonly messagesLost: number }
  /** The service held other prekeys than this store: all were replaced. */
  | { readonly type: "prekeys-replaced"; readonly at: number };

export class Life {
  /** The last problems, and those to come. */
  readonly problems = new Channel<Problem>(PROBLEMS);
  /** Aborts with what stopped the agent. */
  readonly #ending = new AbortController();
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #underWay = new Set<Promise<unknown>>();
  readonly #endings: ((error: AgentStopped) => void)[] = [];
  /** The local store did not take something. */
  #onStoreFault: () => void = () => {};

  get signal(): AbortSignal {
    return this.#ending.signal;
  }

  /** Calls it at the end, in the order of the calls. */
  atEnd(end: (error: AgentStopped) => void): void {
    this.#endings.push(end);
  }

  onStoreFault(work: () => void): void {
    this.#onStoreFault = work;
  }

  trouble(error: AgentError): void {
    this.problems.emit({ type: "trouble", at: Date.now(), error });
  }

  notOpened(item: NotOpened): void {
    this.problems.emit({ type: "not-opened", at: Date.now(), item });
  }

  every(ms: number, work: () => void): void {
    this.#timers.push(setInterval(work, ms).unref());
  }

  /** What nobody awaits. */
  background(work: Promise<unknown>): void {
    this.track(work).catch((error) => {
      if (this.signal.aborted) return;
      if (!(error instanceof AgentError) || error instanceof AgentStopped) {
        this.stop(stoppedBy(error));
        return;
      }
      this.trouble(error);
      if (error instanceof StoreError) this.#onStoreFault();
    });
  }

  track<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    const done = () => this.#underWay.delete(work);
    work.then(done, done);
    return work;
  }

  /** Waits for what is under way, at most so long. */
  async drained(msMax: number): Promise<void> {
    const drained = new AbortController();
    const patience = delay(msMax, drained.signal).catch(() => {});
    await Promise.race([Promise.allSettled(this.#underWay), patience]);
    drained.abort();
  }

  stop(error: AgentStopped): void {
    if (this.signal.aborted) return;
    for (const timer of this.#timers) clearInterval(timer);
    for (const end of this.#endings) end(error);
    this.problems.end();
    this.#ending.abort(error);
  }

  /** Before it has begun. */
  abandon(error: unknown): void {
    this.#ending.abort(error);
  }
}

export function stoppedBy(error: unknown): AgentStopped {
  return error instanceof AgentStopped ? error : new AgentStopped("failed", error);
}
