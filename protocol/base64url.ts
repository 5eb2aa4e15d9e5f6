/**
 * Strict base64url without padding (RFC 4648 §5): one spelling for each sequence of bytes, every other is refused.
 *
 * The platform's decoders skip what they do not know and accept unused bits; an id compared as a string must not.
 */
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const VALUES = new Int8Array(128).fill(-1);
for (let i = 0; i < ALPHABET.length; i++) VALUES[ALPHABET.charCodeAt(i)] = i;

export function encodeBase64Url(bytes: Uint8Array): string {
  let text = "";
  const whole = bytes.length - (bytes.length % 3);
  for (let i = 0; i < whole; i += 3) {
    const group = ((bytes[i] as number) << 16) | ((bytes[i + 1] as number) << 8) | (bytes[i + 2] as number);
    text += character(group >> 18) + character(group >> 12) + character(group >> 6) + character(group);
  }
  if (bytes.length - whole === 1) {
    const last = bytes[whole] as number;
    text += character(last >> 2) + character(last << 4);
  } else if (bytes.length - whole === 2) {
    const last = ((bytes[whole] as number) << 8) | (bytes[whole + 1] as number);
    text += character(last >> 10) + character(last >> 4) + character(last << 2);
  }
  return text;
}

/** Null when the text is not the one right spelling of any bytes. */
export function decodeBase64Url(text: string): Uint8Array | null {
  const rest = text.length % 4;
  if (rest === 1) return null;
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let offset = 0;
  let pending = 0;
  let pendingBits = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    const value = code < 128 ? (VALUES[code] as number) : -1;
    if (value < 0) return null;
    pending = ((pending << 6) | value) & 0xffff;
    pendingBits += 6;
    if (pendingBits >= 8) {
      pendingBits -= 8;
      bytes[offset++] = pending >> pendingBits;
    }
  }
  const unused = pending & ((1 << pendingBits) - 1);
  return unused === 0 ? bytes : null;
}

function character(value: number): string {
  return ALPHABET[value & 63] as string;
}
