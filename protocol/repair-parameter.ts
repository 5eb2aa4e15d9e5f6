/**
 * The content type parameter `in-repair-of` (protocol.md §4): this message says anew what a lost one said.
 *
 * The application sees the content type without it.
 */
import { CONTENT_TYPE_BYTES_MAX, type Frame, paddedFrameBytes } from "./frame.ts";
import { encodeUtf8 } from "./utf8.ts";
import { isUuid } from "./uuid.ts";

/** What it adds to a content type: `; in-repair-of=` and a UUID. */
const REPAIR_PARAMETER_BYTES = 15 + 36;

const PARAMETER = /; ?in-repair-of=([^;]*)$/;

export function withRepairParameter(contentType: string, firstMessageId: string): string {
  return `${splitRepairParameter(contentType).contentType}; in-repair-of=${firstMessageId}`;
}

/** May this be said anew, and not be too large then? Whatever is taken to be sent must answer yes. */
export function fitsAnew({ contentType, body }: Frame, paddedBytesMax: number): boolean {
  const typeBytes = (encodeUtf8(contentType)?.length ?? Number.POSITIVE_INFINITY) + REPAIR_PARAMETER_BYTES;
  return typeBytes <= CONTENT_TYPE_BYTES_MAX && paddedFrameBytes(typeBytes, body.length) <= paddedBytesMax;
}

/** `inRepairOf` is null for a message of its own. */
export function splitRepairParameter(contentType: string): { contentType: string; inRepairOf: string | null } {
  const found = PARAMETER.exec(contentType);
  const inRepairOf = found?.[1] ?? "";
  return found !== null && isUuid(inRepairOf)
    ? { contentType: contentType.slice(0, found.index), inRepairOf }
    : { contentType, inRepairOf: null };
}
