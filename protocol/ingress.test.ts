import fc from "fast-check";
import {
  CipherSuite,
  AEAD_ChaCha20Poly1305 as chacha,
  KDF_HKDF_SHA256 as hkdf,
  KEM_DHKEM_X25519_HKDF_SHA256 as x25519,
} from "hpke";
import { describe, expect, test } from "vitest";
import { hpkeOpen, hpkeSeal } from "./hpke.ts";
import {
  epochOf,
  INGRESS_OVERHEAD_BYTES,
  type IngressCommand,
  ingressEpoch,
  openIngress,
  sealIngress,
} from "./ingress.ts";
import { noblePrimitives as noble } from "./primitives/noble.ts";
import { nodePrimitives as node, nodeRandom } from "./primitives/node.ts";
import { generateX25519, x25519PairFrom } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";
import { uuidFromBytes } from "./uuid.ts";

const hex = (text: string) => Uint8Array.from(Buffer.from(text, "hex"));

const own = generateX25519(node, nodeRandom);
const key = { epoch: 20_000, publicKey: own.publicKey };
const command: IngressCommand = {
  senderId: "a".repeat(43),
  recipientId: "b".repeat(43),
  messageId: "01890a5d-ac96-774b-bcce-b302099a8057",
};

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "opened",
    (error: unknown) => {
      if (error instanceof Refusal) return error.code;
      throw error;
    },
  );
}

describe.each([
  ["node", node],
  ["noble", noble],
])("HPKE over the primitives of %s", (_name, primitives) => {
  // RFC 9180, A.2.1. The private key of the ephemeral pair is what DeriveKeyPair makes of the vector's ikmE.
  const skEm = hex("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600");
  const skRm = hex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
  const enc = hex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
  const pkRm = hex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
  const pt = hex("4265617574792069732074727574682c20747275746820626561757479");
  const ct = hex("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28");
  const bound = { info: hex("4f6465206f6e2061204772656369616e2055726e"), aad: hex("436f756e742d30") };

  test("gives the bytes of the RFC's test vector", () => {
    const recipient = x25519PairFrom(primitives, skRm);
    expect(recipient.publicKey).toEqual(pkRm);
    const sealed = hpkeSeal(primitives, () => skEm, pkRm, pt, bound);
    expect(sealed).toEqual({ encapsulated: enc, ciphertext: ct });
    expect(hpkeOpen(primitives, recipient, { encapsulated: enc, ciphertext: ct }, bound)).toEqual(pt);
  });
});

describe("HPKE", () => {
  test("over these primitives and by WebCrypto open what the other sealed", async () => {
    const reference = new CipherSuite(x25519, hkdf, chacha);
    const publicKey = await reference.DeserializePublicKey(own.publicKey);
    const pair = { publicKey, privateKey: await reference.DeserializePrivateKey(own.privateKey, false) };
    await fc.assert(
      fc.asyncProperty(fc.uint8Array(), fc.uint8Array(), fc.uint8Array(), async (plaintext, info, aad) => {
        const ours = hpkeSeal(noble, nodeRandom, own.publicKey, plaintext, { info, aad });
        expect(await reference.Open(pair, ours.encapsulated, ours.ciphertext, { info, aad })).toEqual(plaintext);
        const theirs = await reference.Seal(publicKey, plaintext, { info, aad });
        const sealed = { encapsulated: theirs.encapsulatedSecret, ciphertext: theirs.ciphertext };
        expect(hpkeOpen(node, own, sealed, { info, aad })).toEqual(plaintext);
      }),
      { numRuns: 10 },
    );
  });
});

describe("ingress sealing", () => {
  test("opens what was sealed for the same command, whatever sealed it", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 3_000 }),
        fc.integer({ min: 0, max: 0xffff_ffff }),
        async (content, epoch) => {
          const sealed = await sealIngress(noble, nodeRandom, { ...key, epoch }, command, content);
          expect(sealed.length).toBe(content.length + INGRESS_OVERHEAD_BYTES);
          expect(ingressEpoch(sealed)).toBe(epoch);
          expect(await openIngress(node, own, command, sealed)).toEqual(content);
        },
      ),
      { numRuns: 15 },
    );
  });

  test("refuses content that was moved to another sender, recipient, message or key", async () => {
    const sealed = await sealIngress(node, nodeRandom, key, command, nodeRandom(20));
    const others: Partial<IngressCommand>[] = [
      { senderId: "c".repeat(43) },
      { recipientId: "c".repeat(43) },
      { senderId: command.recipientId, recipientId: command.senderId },
      { senderId: `${command.senderId}b`, recipientId: command.recipientId.slice(1) },
      { messageId: uuidFromBytes(new Uint8Array(16)) },
    ];
    for (const other of others) {
      expect(await codeOf(openIngress(node, own, { ...command, ...other }, sealed))).toBe("auth-failed");
    }
    const another = generateX25519(node, nodeRandom);
    expect(await codeOf(openIngress(node, another, command, sealed))).toBe("auth-failed");
    expect(await codeOf(openIngress(node, own, command, sealed))).toBe("opened");
  });

  test("refuses content with any bit flipped, the epoch's included, and content that was cut", async () => {
    const sealed = await sealIngress(node, nodeRandom, key, command, nodeRandom(20));
    for (let bit = 0; bit < 8 * sealed.length; bit++) {
      const damaged = sealed.slice();
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      // X25519 ignores the last bit of a public key, but the key is also hashed as it stands.
      expect(await codeOf(openIngress(node, own, command, damaged))).toBe(bit < 8 ? "malformed" : "auth-failed");
    }
    for (let length = 0; length < sealed.length; length++) {
      const code = length < INGRESS_OVERHEAD_BYTES ? "malformed" : "auth-failed";
      expect(await codeOf(openIngress(node, own, command, sealed.subarray(0, length)))).toBe(code);
    }
  });

  test("refuses public keys that lead nowhere, on both sides", async () => {
    const nowhere = { epoch: 1, publicKey: new Uint8Array(32) };
    expect(await codeOf(sealIngress(node, nodeRandom, nowhere, command, nodeRandom(1)))).toBe("bad-key");
    const sealed = (await sealIngress(node, nodeRandom, key, command, nodeRandom(20))).fill(0, 5, 37);
    expect(await codeOf(openIngress(node, own, command, sealed))).toBe("bad-key");
  });

  test("an epoch is a day of UTC", () => {
    expect(epochOf(0)).toBe(0);
    expect(epochOf(Date.UTC(2026, 0, 2) - 1)).toBe(epochOf(Date.UTC(2026, 0, 1)));
    expect(epochOf(Date.UTC(2026, 0, 2))).toBe(epochOf(Date.UTC(2026, 0, 1)) + 1);
  });
});
