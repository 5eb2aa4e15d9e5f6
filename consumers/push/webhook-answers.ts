/**
 * What an answer of a webhook means (Standard Webhooks). Pure.
 *
 * | answer | meaning |
 * | --- | --- |
 * | 2xx | woken |
 * | 410 | the device is gone: its owner says so |
 * | all others, redirects too; no answer; an address that is not called | after Retry-After, or as the retries go |
 */
import { again, type Outcome, retryAfterMs, woken } from "./outcomes.ts";

export function webhookOutcome(status: number, retryAfter: string | null, now: number): Outcome {
  if (status >= 200 && status < 300) return woken;
  if (status === 410) return { kind: "gone", registeredBefore: null, code: "gone" };
  return again(retryAfterMs(retryAfter, now));
}
