/** Times on the wire: RFC 3339 in UTC, ending in `Z`, with exactly three decimals (protocol.md §6). Inside: milliseconds. */
const FORM = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

/** The last moment the form can spell: years have four digits. */
const TIMESTAMP_MS_MAX = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

/** Can the wire spell it? Whole milliseconds from 1970 (it is unsigned in the AAD) to the year 9999. */
export function isTimestamp(ms: number): boolean {
  return Number.isInteger(ms) && ms >= 0 && ms <= TIMESTAMP_MS_MAX;
}

export function formatTimestamp(ms: number): string {
  return new Date(ms).toISOString();
}

/** Null for any other spelling, and for days and hours that do not exist. */
export function parseTimestamp(text: string): number | null {
  if (!FORM.test(text)) return null;
  const ms = Date.parse(text);
  // Date.parse takes 31 February and 24:00 for the next day; only what comes back as it was is a time.
  return isTimestamp(ms) && formatTimestamp(ms) === text ? ms : null;
}
