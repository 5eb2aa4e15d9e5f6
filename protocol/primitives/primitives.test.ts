import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isKemKey } from "../kem-key.ts";
import { noblePrimitives as noble } from "./noble.ts";
import { nodePrimitives as node, nodeRandom } from "./node.ts";
import { drawAhead, generateMlKem768, generateX25519, type Primitives } from "./primitives.ts";

const key = fc.uint8Array({ minLength: 32, maxLength: 32 });
const mlKemSeed = fc.uint8Array({ minLength: 64, maxLength: 64 });
const nonce = fc.uint8Array({ minLength: 12, maxLength: 12 });
const text = fc.uint8Array({ maxLength: 300 });
const few = { numRuns: 20 };

/** Points whose product with any private key is zero, and some spellings above p. */
const SMALL_ORDER = [
  new Uint8Array(32),
  Uint8Array.from({ length: 32 }, (_, i) => (i === 0 ? 1 : 0)),
  Uint8Array.from(Buffer.from("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800", "hex")),
  Uint8Array.from(Buffer.from("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "hex")),
  Uint8Array.from(Buffer.from("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "hex")),
  Uint8Array.from(Buffer.from("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "hex")),
];

function sameFrom<Result>(compute: (primitives: Primitives) => Result): Result {
  const result = compute(noble);
  expect(compute(node)).toStrictEqual(result);
  return result;
}

describe("the two implementations agree on", () => {
  test("hashes, HMAC and HKDF", () => {
    fc.assert(
      fc.property(text, text, fc.integer({ min: 1, max: 100 }), (a, b, length) => {
        sameFrom((p) => p.sha256(a));
        sameFrom((p) => p.sha512(a));
        sameFrom((p) => p.hmacSha256(a, b));
        sameFrom((p) => p.hkdfSha256(a, b, a, length));
      }),
    );
  });

  test("X25519, for all keys there are", () => {
    fc.assert(
      fc.property(key, key, (privateKey, publicKey) => {
        const own = { privateKey, publicKey: sameFrom((p) => p.x25519PublicKey(privateKey)) };
        sameFrom((p) => p.x25519(own, publicKey));
        sameFrom((p) => p.x25519({ ...own, privateKey: privateKey.slice() }, publicKey));
      }),
      few,
    );
  });

  test("which X25519 outputs are all-zero", () => {
    const own = generateX25519(node, nodeRandom);
    for (const publicKey of SMALL_ORDER) expect(sameFrom((p) => p.x25519(own, publicKey))).toBeNull();
  });

  test("Ed25519 keys, signatures and their verification", () => {
    fc.assert(
      fc.property(key, text, fc.nat(511), (seed, message, bit) => {
        const own = { privateKey: seed, publicKey: sameFrom((p) => p.ed25519PublicKey(seed)) };
        const signature = sameFrom((p) => p.ed25519Sign(own, message));
        expect(sameFrom((p) => p.ed25519Verify(own.publicKey, message, signature))).toBe(true);
        const damaged = signature.slice();
        damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
        expect(sameFrom((p) => p.ed25519Verify(own.publicKey, message, damaged))).toBe(false);
        expect(sameFrom((p) => p.ed25519Verify(own.publicKey, message, signature.subarray(1)))).toBe(false);
      }),
      few,
    );
  });

  test("ML-KEM-768, and what was encapsulated is found again", () => {
    fc.assert(
      fc.property(mlKemSeed, key, (seed, randomness) => {
        const own = { privateKey: seed, publicKey: sameFrom((p) => p.mlKem768PublicKey(seed)) };
        expect(isKemKey(own.publicKey)).toBe(true);
        const { sharedSecret, ciphertext } = sameFrom((p) => p.mlKem768Encapsulate(own.publicKey, randomness));
        expect([sharedSecret.length, ciphertext.length]).toEqual([32, 1_088]);
        expect(sameFrom((p) => p.mlKem768Decapsulate(own, ciphertext))).toStrictEqual(sharedSecret);
      }),
      few,
    );
  });

  test("the other secret of an ML-KEM-768 ciphertext that is damaged or anything at all", () => {
    fc.assert(
      fc.property(mlKemSeed, key, fc.nat(8 * 1_088 - 1), (seed, randomness, bit) => {
        const own = { privateKey: seed, publicKey: node.mlKem768PublicKey(seed) };
        const { sharedSecret, ciphertext } = node.mlKem768Encapsulate(own.publicKey, randomness);
        const damaged = ciphertext.slice();
        damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
        const rejected = sameFrom((p) => p.mlKem768Decapsulate(own, damaged));
        expect(rejected).not.toEqual(sharedSecret);
        expect(sameFrom((p) => p.mlKem768Decapsulate(own, new Uint8Array(1_088).fill(bit & 0xff)))).not.toEqual(
          rejected,
        );
      }),
      few,
    );
  });

  test("ChaCha20-Poly1305, and every damaged bit is noticed", () => {
    fc.assert(
      fc.property(key, nonce, text, text, fc.nat(), (k, n, plaintext, aad, at) => {
        const sealed = sameFrom((p) => p.chacha20Poly1305Seal(k, n, plaintext, aad));
        expect(sameFrom((p) => p.chacha20Poly1305Open(k, n, sealed, aad))).toEqual(plaintext);
        const tag = sealed.tag.slice();
        tag[at % 16] = (tag[at % 16] as number) ^ (1 << (at % 8));
        expect(sameFrom((p) => p.chacha20Poly1305Open(k, n, { ...sealed, tag }, aad))).toBeNull();
      }),
      few,
    );
  });
});

describe.each([
  ["node", node],
  ["noble", noble],
])("ML-KEM-768 by %s", (_name, primitives) => {
  const own = generateMlKem768(primitives, nodeRandom);

  test("changes nothing that it is given", () => {
    const randomness = nodeRandom(32);
    const { ciphertext } = primitives.mlKem768Encapsulate(own.publicKey, randomness);
    const given = [own.privateKey, own.publicKey, randomness, ciphertext];
    const before = given.map((bytes) => bytes.slice());
    primitives.mlKem768Encapsulate(own.publicKey, randomness);
    primitives.mlKem768Decapsulate(own, ciphertext);
    expect(given).toEqual(before);
  });

  test("throws for every wrong length", () => {
    expect(() => primitives.mlKem768PublicKey(new Uint8Array(63))).toThrow();
    expect(() => primitives.mlKem768Encapsulate(own.publicKey.subarray(1), nodeRandom(32))).toThrow();
    expect(() => primitives.mlKem768Encapsulate(own.publicKey, nodeRandom(31))).toThrow();
    expect(() => primitives.mlKem768Decapsulate(own, new Uint8Array(1_087))).toThrow();
  });
});

test("what is drawn ahead is given out once, whatever lengths are asked for, and keys are not drawn ahead", () => {
  let drawn = 0;
  const lengths: number[] = [];
  // Each byte pair names its place in the source.
  const source = (length: number) => {
    lengths.push(length);
    const bytes = new Uint8Array(length);
    for (let at = 0; at + 1 < length; at += 2) new DataView(bytes.buffer).setUint16(at, drawn++);
    return bytes;
  };
  const random = drawAhead(source);
  const places = Array.from({ length: 2_000 }, (_, n) => random(n % 3 === 0 ? 16 : 12)).flatMap((value) =>
    Array.from(
      { length: value.length / 2 },
      (_, at) => (value[2 * at] as number) * 256 + (value[2 * at + 1] as number),
    ),
  );
  expect(new Set(places).size).toBe(places.length);
  expect(lengths.length).toBeLessThan(20);
  lengths.length = 0;
  expect(random(32)).toHaveLength(32);
  expect(random(64)).toHaveLength(64);
  expect(lengths).toEqual([32, 64]);
});
