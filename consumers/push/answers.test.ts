import { expect, test } from "vitest";
import { apnsOutcome } from "./apns-answers.ts";
import { fcmOutcome } from "./fcm-answers.ts";
import { retryAfterMs } from "./outcomes.ts";
import { webhookOutcome } from "./webhook-answers.ts";

const now = Date.UTC(2026, 0, 1);
const gone = { kind: "gone", registeredBefore: null };
const fault = { kind: "fault" };
const bug = { kind: "bug" };
const again = (afterMs: number | null = null) => ({ kind: "again", afterMs });

function fcmError(status: string, errorCode: string | null, ...more: object[]) {
  const fcm = { "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", errorCode };
  return { error: { status, message: "m", details: [...(errorCode === null ? [] : [fcm]), ...more] } };
}

const badRequest = {
  "@type": "type.googleapis.com/google.rpc.BadRequest",
  fieldViolations: [{ field: "message.ttl" }],
};

test.each([
  ["404 UNREGISTERED: the device is gone", 404, fcmError("NOT_FOUND", "UNREGISTERED"), null, gone],
  ["404 of something else (a project): no token is to blame", 404, fcmError("NOT_FOUND", null), null, fault],
  ["UNREGISTERED with another status takes no token away", 500, fcmError("INTERNAL", "UNREGISTERED"), null, again()],
  ["400 INVALID_ARGUMENT of FCM: the token is none", 400, fcmError("INVALID_ARGUMENT", "INVALID_ARGUMENT"), null, gone],
  [
    "400 with violations of fields: our call is wrong",
    400,
    fcmError("INVALID_ARGUMENT", "INVALID_ARGUMENT", badRequest),
    null,
    bug,
  ],
  ["400 with violations alone: our call is wrong", 400, fcmError("INVALID_ARGUMENT", null, badRequest), null, bug],
  ["400 without a word of FCM: our call is wrong", 400, fcmError("INVALID_ARGUMENT", null), null, bug],
  ["400 that is no JSON: our call is wrong", 400, "<html>", null, bug],
  [
    "403 SENDER_ID_MISMATCH: a token of another project",
    403,
    fcmError("PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
    null,
    { kind: "foreign" },
  ],
  ["403 otherwise: our credentials", 403, fcmError("PERMISSION_DENIED", null), null, fault],
  ["401: our credentials", 401, fcmError("UNAUTHENTICATED", null), null, fault],
  [
    "401 THIRD_PARTY_AUTH_ERROR: our credentials",
    401,
    fcmError("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
    null,
    fault,
  ],
  ["429 with Retry-After: then", 429, fcmError("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "90", again(90_000)],
  ["429 without: in a minute", 429, fcmError("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), null, again(60_000)],
  ["500 INTERNAL: as the retries go", 500, fcmError("INTERNAL", "INTERNAL"), null, again()],
  ["503 UNAVAILABLE with Retry-After: then", 503, fcmError("UNAVAILABLE", "UNAVAILABLE"), "7", again(7_000)],
  ["503 without a body: as the retries go", 503, undefined, null, again()],
])("FCM: %s", (_, status, body, retryAfter, outcome) => {
  expect(fcmOutcome({ status, body, retryAfter }, now)).toMatchObject(outcome);
});

test.each([
  ["200: woken", 200, null, null, null, { kind: "woken" }],
  [
    "410 Unregistered: gone, if it was registered before",
    410,
    "Unregistered",
    now - 5,
    null,
    { kind: "gone", registeredBefore: now - 5 },
  ],
  ["410 ExpiredToken: the same", 410, "ExpiredToken", now - 5, null, { kind: "gone", registeredBefore: now - 5 }],
  ["410 without a time: nobody can say", 410, "Unregistered", null, null, again()],
  ["400 BadDeviceToken: the other environment", 400, "BadDeviceToken", null, null, { kind: "elsewhere" }],
  [
    "400 DeviceTokenNotForTopic: the other environment",
    400,
    "DeviceTokenNotForTopic",
    null,
    null,
    { kind: "elsewhere" },
  ],
  ["400 BadTopic: our configuration", 400, "BadTopic", null, null, fault],
  ["400 TopicDisallowed: our configuration", 400, "TopicDisallowed", null, null, fault],
  ["400 BadPriority: our call is wrong", 400, "BadPriority", null, null, bug],
  ["400 without a reason: our call is wrong", 400, null, null, null, bug],
  ["403 ExpiredProviderToken: a new JWT", 403, "ExpiredProviderToken", null, null, { kind: "renew" }],
  ["403 InvalidProviderToken: our credentials", 403, "InvalidProviderToken", null, null, fault],
  ["403 Forbidden: our credentials", 403, "Forbidden", null, null, fault],
  ["429 TooManyRequests: as the retries go", 429, "TooManyRequests", null, null, again()],
  ["429 with Retry-After: then", 429, "TooManyRequests", null, "30", again(30_000)],
  ["429 TooManyProviderTokenUpdates: as the retries go", 429, "TooManyProviderTokenUpdates", null, null, again()],
  ["413: our call is wrong", 413, "PayloadTooLarge", null, null, bug],
  ["500 InternalServerError: as the retries go", 500, "InternalServerError", null, null, again()],
  ["503 ServiceUnavailable with Retry-After: then", 503, "ServiceUnavailable", null, "2", again(2_000)],
  ["503 Shutdown: as the retries go", 503, "Shutdown", null, null, again()],
  ["no answer: as the retries go", null, null, null, null, again()],
] as const)("APNs: %s", (_, status, reason, timestamp, retryAfter, outcome) => {
  expect(apnsOutcome({ status, reason, timestamp, retryAfter }, now)).toMatchObject(outcome);
});

test.each([
  [200, null, { kind: "woken" }],
  [204, null, { kind: "woken" }],
  [410, null, gone],
  [302, null, again()],
  [400, null, again()],
  [404, null, again()],
  [429, "12", again(12_000)],
  [500, null, again()],
  [503, "5", again(5_000)],
])("a webhook that answers %i, Retry-After %s", (status, retryAfter, outcome) => {
  expect(webhookOutcome(status, retryAfter, now)).toMatchObject(outcome);
});

test.each([
  ["0", 0],
  ["120", 120_000],
  [new Date(now + 5_000).toUTCString(), 5_000],
  [new Date(now - 5_000).toUTCString(), 0],
  ["soon", null],
  ["-3", 0],
  ["", null],
  [null, null],
])("Retry-After %j", (header, ms) => {
  // "-3" is a year to some parsers: whatever it is, it is not in the future.
  expect(retryAfterMs(header, now)).toBe(ms);
});
