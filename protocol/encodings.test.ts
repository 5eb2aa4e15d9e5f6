import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeBase64Url, encodeBase64Url } from "./base64url.ts";
import { makeMessageId, messageIdTime } from "./message-id.ts";
import { formatTimestamp, isTimestamp, parseTimestamp } from "./timestamp.ts";
import { decodeUtf8, encodeUtf8 } from "./utf8.ts";
import { isUuid, uuidFromBytes, uuidToBytes } from "./uuid.ts";

describe("base64url", () => {
  test("agrees with the platform on every sequence of bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        expect(encodeBase64Url(bytes)).toBe(Buffer.from(bytes).toString("base64url"));
        expect(decodeBase64Url(encodeBase64Url(bytes))).toEqual(bytes);
      }),
    );
  });

  test("a text is decoded only if it is what its bytes encode to", () => {
    const letters = fc.constantFrom(..."ABCDwxyz0189-_+/= \n");
    fc.assert(
      fc.property(fc.string({ unit: letters, maxLength: 12 }), (text) => {
        const bytes = decodeBase64Url(text);
        const platform = Buffer.from(text, "base64url");
        if (bytes === null) expect(platform.toString("base64url")).not.toBe(text);
        else expect(encodeBase64Url(bytes)).toBe(text);
      }),
    );
  });
});

describe("UTF-8", () => {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  test("agrees with the platform on every text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 40 }), (text) => {
        const bytes = encodeUtf8(text);
        expect(bytes).toEqual(text.isWellFormed() ? new TextEncoder().encode(text) : null);
        if (bytes !== null) expect(decodeUtf8(bytes)).toBe(text);
      }),
    );
  });

  test("agrees with the platform on every sequence of bytes", () => {
    const byte = fc.oneof(
      fc.nat(255),
      fc.constantFrom(0x7f, 0x80, 0xbf, 0xc1, 0xc2, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5),
    );
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 6 }), (array) => {
        const bytes = Uint8Array.from(array);
        let platform: string | null = null;
        try {
          platform = strict.decode(bytes);
        } catch {}
        expect(decodeUtf8(bytes)).toBe(platform);
      }),
      { numRuns: 5_000 },
    );
  });

  test("a lone surrogate has no encoding", () => {
    expect(encodeUtf8("a\ud800b")).toBeNull();
  });
});

test("a UUID survives its 16 bytes, and only lower case is one", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
      const text = uuidFromBytes(bytes);
      expect(isUuid(text)).toBe(true);
      expect(uuidToBytes(text)).toEqual(bytes);
      expect(isUuid(text.toUpperCase())).toBe(text === text.toUpperCase());
    }),
  );
});

test("every moment has one spelling", () => {
  fc.assert(
    fc.property(fc.nat(253_402_300_799_999), (ms) => {
      expect(parseTimestamp(formatTimestamp(ms))).toBe(ms);
    }),
  );
});

test.each([
  "2026-02-31T00:00:00.000Z",
  "2026-01-01T24:00:00.000Z",
  "2026-01-01T23:59:60.000Z",
  "1969-12-31T23:59:59.999Z",
  "2026-01-01T00:00:00.0000Z",
  "2026-01-01T00:00:00Z",
  "2026-01-01t00:00:00.000Z",
  "+02026-01-01T00:00:00.000Z",
  "2026-01-01T00:00:00.000Z\n",
])("%j is no time", (text) => {
  expect(parseTimestamp(text)).toBeNull();
});

test("times before 1970, after 9999 and between milliseconds have no spelling", () => {
  expect([-1, 253_402_300_800_000, 0.5, Number.NaN].map(isTimestamp)).toEqual([false, false, false, false]);
});

test("the time of a message id is the time it was made at", () => {
  fc.assert(
    fc.property(fc.nat(2 ** 48 - 1), fc.uint8Array({ minLength: 16, maxLength: 16 }), (now, random) => {
      expect(messageIdTime(makeMessageId(now, () => random))).toBe(now);
    }),
  );
  expect(messageIdTime("936da01f-9abd-4d9d-80c7-02af85c822a8")).toBeNull();
});
