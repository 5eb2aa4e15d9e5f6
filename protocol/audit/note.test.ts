import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { nodePrimitives as primitives } from "../primitives/node.ts";
import { Refusal } from "../refusal.ts";
import { formatCheckpoint, openCheckpoint, parseCheckpoint, signCheckpoint } from "./checkpoint.ts";
import {
  decodeBase64,
  encodeBase64,
  formatSignerKey,
  formatVerifierKey,
  openNote,
  parseSignerKey,
  parseVerifierKey,
  signNote,
  verifierOf,
} from "./note.ts";

/** The known answers of the reference implementation (golang.org/x/mod/sumdb/note, `note_test.go`). */
const reference = {
  verifierKey: "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
  seed: (decodeBase64("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz") as Uint8Array).subarray(1),
  text: "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n",
  line: "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
};

const key = { privateKey: reference.seed, publicKey: primitives.ed25519PublicKey(reference.seed) };
const verifier = verifierOf(primitives, "log.example/audit", key.publicKey);
const checkpoint = { origin: verifier.name, size: 20_852_163, root: new Uint8Array(32).fill(9) };
const signed = signCheckpoint(primitives, key, checkpoint);

describe("the known answers of golang.org/x/mod/sumdb/note", () => {
  const known = parseVerifierKey(primitives, reference.verifierKey);

  test("its key is read and written", () => {
    expect(known).toEqual(verifierOf(primitives, "PeterNeumann", key.publicKey));
    expect(formatVerifierKey(known)).toBe(reference.verifierKey);
  });

  test("its secret is read and written", () => {
    const secret = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    expect(parseSignerKey(primitives, secret)).toEqual({ name: "PeterNeumann", key });
    expect(formatSignerKey(primitives, { name: "PeterNeumann", key })).toBe(secret);
    for (const wrong of [secret.slice(1), secret.slice(0, -1), secret.replace("c74f", "c74e"), reference.verifierKey])
      expect(codeOf(() => parseSignerKey(primitives, wrong))).toBe("malformed");
  });

  test("its note is opened, and signed to the same bytes", () => {
    const note = `${reference.text}\n${reference.line}`;
    expect(openNote(primitives, known, note)).toBe(reference.text);
    expect(signNote(primitives, { name: "PeterNeumann", key }, reference.text)).toBe(note);
  });

  test.each([
    ["without signatures", `${reference.text}\n`],
    ["without its last newline", `${reference.text}\n${reference.line}`.slice(0, -1)],
    ["without a text", `\n${reference.line}`],
    ["without an empty line", `${reference.text}${reference.line}`],
    ["with a hyphen for the dash", `${reference.text}\n${reference.line.replace("—", "-")}`],
    ["with a broken signature", `${reference.text}\n${reference.line.replace("x08go", "x08g")}`],
    ["with a signature that is a key id alone", `${reference.text}\n— PeterNeumann x08gow==\n`],
    ["with a control character", `${reference.text}\u0007\n\n${reference.line}`],
    ["with more signatures than anybody reads", `${reference.text}\n${reference.line.repeat(101)}`],
  ])("what comes %s is no note", (_, note) => {
    expect(codeOf(() => openNote(primitives, known, note))).toBe("malformed");
  });

  test("signatures of others are passed over, and are not enough", () => {
    const other = reference.line.replace("PeterNeumann", "EnochRoot");
    expect(openNote(primitives, known, `${reference.text}\n${other}${reference.line}`)).toBe(reference.text);
    expect(codeOf(() => openNote(primitives, known, `${reference.text}\n${other}`))).toBe("signature-invalid");
  });

  test("a key whose characters are changed, cut or added is refused", () => {
    for (let i = 0; i < reference.verifierKey.length; i++) {
      const changed = String.fromCharCode(reference.verifierKey.charCodeAt(i) + 1);
      const text = reference.verifierKey.slice(0, i) + changed + reference.verifierKey.slice(i + 1);
      expect(() => parseVerifierKey(primitives, text)).toThrow(Refusal);
      expect(() => parseVerifierKey(primitives, reference.verifierKey.slice(0, i))).toThrow(Refusal);
    }
    // The wrong length and an unknown algorithm, each with the key id that fits.
    for (const text of [
      "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
      "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ]) {
      expect(() => parseVerifierKey(primitives, text)).toThrow(Refusal);
    }
  });
});

test("a checkpoint is read as it was signed", () => {
  expect(openCheckpoint(primitives, verifier, signed)).toEqual(checkpoint);
  expect(parseCheckpoint(`${formatCheckpoint(checkpoint)}extension 7\n`)).toEqual(checkpoint);
});

test("one character changed anywhere, and a checkpoint is not believed", () => {
  fc.assert(
    fc.property(fc.nat(signed.length - 1), fc.string({ minLength: 1, maxLength: 1 }), (at, character) => {
      fc.pre(signed[at] !== character);
      const forged = signed.slice(0, at) + character + signed.slice(at + 1);
      expect(() => openCheckpoint(primitives, verifier, forged)).toThrow(Refusal);
    }),
    { numRuns: 500 },
  );
});

test("a checkpoint of another log under the same key is not this log's", () => {
  const text = formatCheckpoint({ ...checkpoint, origin: "other.example/audit" });
  const note = signNote(primitives, { name: verifier.name, key }, text);
  expect(codeOf(() => openCheckpoint(primitives, verifier, note))).toBe("signature-invalid");
});

test.each([
  ["origin", "\n1\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n"],
  ["size", "log\n01\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n"],
  ["size", "log\n-1\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n"],
  ["size", "log\n9007199254740992\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n"],
  ["root", "log\n1\nCQkJCQk=\n"],
  ["checkpoint", "log\n1\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk="],
  ["checkpoint", "log\n1\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n\nx\n"],
])("a wrong %s is named: %j", (field, text) => {
  expect(() => parseCheckpoint(text)).toThrow(expect.objectContaining({ code: "malformed", field }));
});

test("base64 agrees with the platform, and has one spelling", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      expect(encodeBase64(bytes)).toBe(Buffer.from(bytes).toString("base64"));
      expect(decodeBase64(encodeBase64(bytes))).toEqual(bytes);
    }),
  );
  expect(["QR==", "QQ", "QQ=", "Q-==", "QQ==="].map(decodeBase64)).toEqual([null, null, null, null, null]);
});

test.each(["", "a b", "a+b", "a\nb", "a\u00a0b", "\ud800"])("%j is no name of a key", (name) => {
  expect(codeOf(() => verifierOf(primitives, name, key.publicKey))).toBe("malformed");
});

function codeOf(work: () => unknown): string | null {
  try {
    work();
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
  return null;
}
