/**
 * Whom a batch wants woken. Pure.
 */
import { Refusal } from "../../protocol/refusal.ts";
import type { PushRequested, PushRetry } from "../../schemas/values.ts";
import { devicesMax } from "../../store/devices.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { stepEventId } from "../../streams/headers.ts";
import { attemptsMax, isWait } from "./retries.ts";

export type WakeRecord = Inbound<PushRequested | PushRetry>;

/** One attempt at one agent. */
export interface Wanted {
  readonly cause: WakeRecord;
  /** The same for all attempts of a wake. */
  readonly wakeId: string;
  readonly recipientId: string;
  /** The wake is about items up to this one. */
  readonly seq: number;
  readonly requestedAt: number;
  /** 1 for the first. */
  readonly attempt: number;
  /** Null for all the agent has. */
  readonly deviceIds: ReadonlySet<string> | null;
  /** Another device of the agent was woken, or is to be by another wake. */
  readonly woken: boolean;
}

/** @throws Refusal */
export function checkWake({ key, value }: WakeRecord): void {
  if (key !== value.recipientId) throw new Refusal("item-mismatch");
  if (!isRetry(value)) return;
  const { attempt, deviceIds } = value;
  const isOurs = attempt >= 2 && attempt <= attemptsMax && deviceIds.length <= devicesMax && isWait(value);
  if (!isOurs) throw new Refusal("malformed");
}

/**
 * Of an agent's requests the oldest, up to the newest's seq; each retry that has waited long enough. The oldest, for it may come a second time,
 * after a crash, and together with newer ones: it must find that its claim is its own.
 */
export function wantedBy(batch: readonly WakeRecord[]): readonly Wanted[] {
  const requests = new Map<string, Wanted>();
  const retries: Wanted[] = [];
  for (const cause of batch) {
    const { value } = cause;
    const { recipientId, seq, requestedAt } = value;
    const about = { cause, recipientId, seq, requestedAt };
    if (isRetry(value)) {
      const { wakeId, attempt, woken } = value;
      if (value.restMs === 0) retries.push({ ...about, wakeId, attempt, deviceIds: new Set(value.deviceIds), woken });
      continue;
    }
    const oldest = requests.get(recipientId);
    if (oldest !== undefined) {
      requests.set(recipientId, { ...oldest, seq: Math.max(oldest.seq, seq) });
      continue;
    }
    const { topic, partition, offset } = cause;
    const wakeId = stepEventId("wake", { topic: topic.name, partition, offset }, 0);
    requests.set(recipientId, { ...about, wakeId, attempt: 1, deviceIds: null, woken: false });
  }
  return [...retries, ...requests.values()];
}

/** Retries whose provider asked for longer than a topic waits. */
export function stillWaiting(batch: readonly WakeRecord[]): readonly Inbound<PushRetry>[] {
  return batch.filter((record): record is Inbound<PushRetry> => isRetry(record.value) && record.value.restMs > 0);
}

function isRetry(value: PushRequested | PushRetry): value is PushRetry {
  return "attempt" in value;
}
