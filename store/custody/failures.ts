/**
 * The failed messages of one opening: those that failed before, those that fail now, and what is to be asked for.
 */
import { makeMessageId } from "../../protocol/message-id.ts";
import type { Clock } from "../../protocol/session.ts";
import type { MessageDays } from "../message-days.ts";
import { type MessageKey, messageName } from "../messages.ts";
import type { Queryable } from "../postgres.ts";
import { askedAgain, type FailedMessage, writeAsked, writeFailed } from "./failed.ts";

export class Failures {
  readonly #clock: Clock;
  readonly #known = new Map<string, FailedMessage>();
  readonly #made = new Map<string, FailedMessage>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  know(failed: readonly FailedMessage[]): void {
    for (const message of failed) this.#known.set(messageName(message), message);
  }

  find(key: MessageKey): FailedMessage | null {
    return this.#known.get(messageName(key)) ?? this.#made.get(messageName(key)) ?? null;
  }

  add(failed: Omit<FailedMessage, "requestId" | "asked" | "askAt">): void {
    const { recipientId, senderId, messageId, code, sessionId, dhPublicKey } = failed;
    const facts = { recipientId, senderId, messageId, code, sessionId, dhPublicKey };
    const { now, random } = this.#clock;
    this.#made.set(messageName(failed), { ...facts, requestId: makeMessageId(now, random), asked: 0, askAt: now });
  }

  /** Keeps what failed now. Answers, of those that `wait`, which are to be asked for; the others were handed on not long ago. */
  async write(client: Queryable, days: MessageDays, wait: readonly MessageKey[]): Promise<readonly FailedMessage[]> {
    const { now, random } = this.#clock;
    const due = wait.flatMap((key) => this.#known.get(messageName(key)) ?? []).filter(({ askAt }) => askAt <= now);
    const made = [...this.#made.values()].map((failed) => askedAgain(failed, now, random));
    await writeFailed(client, days, made);
    const again = await writeAsked(
      client,
      due.map((failed) => askedAgain(failed, now, random)),
      now,
    );
    const waiting = new Set(wait.map(messageName));
    return [...made.filter((failed) => waiting.has(messageName(failed))), ...again];
  }
}
