/**
 * What the answer to a wake means for the device. Tables of answers: `fcm-answers.ts`, `apns-answers.ts`, `webhook-answers.ts`.
 */
import type { ApnsEnvironment, Device } from "../../store/devices.ts";

export type Outcome =
  /** `environment`: the provider knows the token there, and not where it was registered. */
  | { readonly kind: "woken"; readonly environment?: ApnsEnvironment }
  /** There is no such device any more. Null: whenever it was registered; else if it was before that time, ms. */
  | { readonly kind: "gone"; readonly registeredBefore: number | null; readonly code: string }
  /** The token is of another app; or this service is set up as another one, and then every token is. `waking.ts` tells which. */
  | { readonly kind: "foreign"; readonly code: string }
  /** Later, after `afterMs` at the earliest where the provider says so. */
  | { readonly kind: "again"; readonly afterMs: number | null }
  /** The provider does not take this service's word: somebody must look. Tokens stay, and the provider is left alone for a while. */
  | { readonly kind: "fault"; readonly code: string }
  /** The call itself is wrong: ours to mend, and no device's fault. */
  | { readonly kind: "bug"; readonly code: string };

/** A provider, or webhooks. */
export interface PushDoor {
  /** `wakeId`: the same for all attempts. Never rejects, and answers within seconds. */
  wake(device: Device, wakeId: string): Promise<Outcome>;
  close(): Promise<void>;
}

/** A provider that has not answered by then is asked again later: a step waits for its slowest call. */
export const answerMsMax = 5_000;

export const woken: Outcome = { kind: "woken" };

export function again(afterMs: number | null = null): Outcome {
  return { kind: "again", afterMs };
}

/** The header's seconds or date, as ms from now; null where it says nothing that is understood. */
export function retryAfterMs(header: string | null | undefined, now: number): number | null {
  if (header === null || header === undefined) return null;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}

/** `work`, or `otherwise` when it takes longer than `ms` or fails. What it does after that is not waited for. */
export async function answeredWithin<Answer>(ms: number, work: Promise<Answer>, otherwise: Answer): Promise<Answer> {
  const late = Promise.withResolvers<Answer>();
  const timer = setTimeout(late.resolve, ms, otherwise);
  try {
    return await Promise.race([work, late.promise]);
  } catch {
    return otherwise;
  } finally {
    clearTimeout(timer);
  }
}
