/**
 * The content type parameter `in-repair-of` (protocol.md §4): this message says anew what a lost one said.
 *
 * The application sees the content type without it.
 */
import { isUuid } from "./uuid.ts";

/** What it adds to a content type: `; in-repair-of=` and a UUID. */
export const REPAIR_PARAMETER_BYTES = 15 + 36;

const PARAMETER = /; ?in-repair-of=([^;]*)$/;

export function withRepairParameter(contentType: string, firstMessageId: string): string {
  return `${splitRepairParameter(contentType).contentType}; in-repair-of=${firstMessageId}`;
}

/** `inRepairOf` is null for a message of its own. */
export function splitRepairParameter(contentType: string): { contentType: string; inRepairOf: string | null } {
  const found = PARAMETER.exec(contentType);
  const inRepairOf = found?.[1] ?? "";
  return found !== null && isUuid(inRepairOf)
    ? { contentType: contentType.slice(0, found.index), inRepairOf }
    : { contentType, inRepairOf: null };
}
