/**
 * Message ids: UUIDv7 (RFC 9562 §5.7) made by the sender, whose first 48 bits are the envelope's timestamp (protocol.md §5).
 */
import { DAY_MS } from "./limits.ts";
import type { Random } from "./primitives/primitives.ts";
import { uuidFromBytes } from "./uuid.ts";

const VERSION_7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** A fresh id whose time is `nowMs`. */
export function makeMessageId(nowMs: number, random: Random): string {
  const bytes = random(16).slice();
  for (let i = 0; i < 6; i++) bytes[i] = Math.floor(nowMs / 2 ** (40 - 8 * i));
  bytes[6] = 0x70 | ((bytes[6] as number) & 0x0f);
  bytes[8] = 0x80 | ((bytes[8] as number) & 0x3f);
  return uuidFromBytes(bytes);
}

/** The time in the id, in milliseconds; null when it is not a UUIDv7 in lower case. */
export function messageIdTime(messageId: string): number | null {
  if (!VERSION_7.test(messageId)) return null;
  return Number.parseInt(messageId.slice(0, 8) + messageId.slice(9, 13), 16);
}

/** Ingress takes ids up to 7 days old; an append may wait for Kafka, and clocks differ. */
const idAgeMsMax = 8 * DAY_MS;

/** Ingress takes ids up to 5 minutes ahead of its clock, which may itself be ahead of the broker's. */
const idAheadMsMax = 10 * 60 * 1000;

/** Whether the id was made at about the time at which the log took it, ms since the epoch. False also when it is no message id. */
export function isTimely(messageId: string, appendedAt: number): boolean {
  const time = messageIdTime(messageId);
  return time !== null && time >= appendedAt - idAgeMsMax && time <= appendedAt + idAheadMsMax;
}
