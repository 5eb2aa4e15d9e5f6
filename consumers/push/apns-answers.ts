/**
 * What an answer of APNs means. Pure.
 *
 * | answer | meaning |
 * | --- | --- |
 * | 200 | woken |
 * | 410 `Unregistered`, `ExpiredToken` | the device is gone, if it was registered before the time in the answer |
 * | 400 `BadDeviceToken`, `DeviceTokenNotForTopic` | most often a token of the other environment: once there, and if it is bad there, too, it is of another app, or we ask for another |
 * | 403 `ExpiredProviderToken` | our JWT is old: a new one, once |
 * | 403 otherwise, 400 about topic or certificate | our credentials: leave the provider alone, and tell somebody |
 * | 429 | after Retry-After, or as the retries go |
 * | 500, 503; GOAWAY, reset, silence | the same |
 * | 413, 400 otherwise | our call is wrong |
 */
import { again, type Outcome, retryAfterMs, woken } from "./outcomes.ts";

export interface ApnsAnswer {
  /** Null: none came. */
  readonly status: number | null;
  readonly reason: string | null;
  /** Of 410: since when APNs knows, ms since the epoch. */
  readonly timestamp: number | null;
  readonly retryAfter: string | null;
}

/** `elsewhere`: ask the other environment, once; `renew`: with a new JWT, once. */
export type ApnsOutcome = Outcome | { readonly kind: "elsewhere" } | { readonly kind: "renew" };

const configurationReasons: ReadonlySet<string> = new Set([
  "BadCertificate",
  "BadCertificateEnvironment",
  "BadTopic",
  "MissingTopic",
  "TopicDisallowed",
]);

export function apnsOutcome({ status, reason, timestamp, retryAfter }: ApnsAnswer, now: number): ApnsOutcome {
  const afterMs = retryAfterMs(retryAfter, now);
  if (status === null) return again();
  if (status === 200) return woken;
  if (status === 410 && (reason === "Unregistered" || reason === "ExpiredToken")) {
    // Without the time nobody can say whether the token was registered again since.
    return timestamp === null ? again(afterMs) : { kind: "gone", registeredBefore: timestamp, code: "unregistered" };
  }
  if (status === 400 && (reason === "BadDeviceToken" || reason === "DeviceTokenNotForTopic"))
    return { kind: "elsewhere" };
  if (status === 403 && reason === "ExpiredProviderToken") return { kind: "renew" };
  if (status === 403 || (status === 400 && reason !== null && configurationReasons.has(reason))) {
    return { kind: "fault", code: "not-authorized" };
  }
  if (status === 429 || status >= 500) return again(afterMs);
  return { kind: "bug", code: `apns-${status}` };
}
