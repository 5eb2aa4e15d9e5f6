import fc from "fast-check";
import { expect, test } from "vitest";
import { createIdentity } from "./identity.ts";
import { noblePrimitives } from "./primitives/noble.ts";
import { nodePrimitives, nodeRandom } from "./primitives/node.ts";
import { isSigningKeySigned, type SigningKeyFacts, signSigningKey } from "./signing-key.ts";

const agent = createIdentity(nodePrimitives, nodeRandom);
const other = createIdentity(nodePrimitives, nodeRandom);
const worker = createIdentity(nodePrimitives, nodeRandom);
const facts: SigningKeyFacts = {
  agentId: agent.agentId,
  publicKey: worker.signing.publicKey,
  notAfter: 1_800_000_000_000,
};

test.each([nodePrimitives, noblePrimitives])("what was signed is verified, by every implementation", (primitives) => {
  for (const [kind, signer] of [
    ["certificate", agent.signing],
    ["proof", worker.signing],
  ] as const) {
    const signature = signSigningKey(primitives, kind, signer, facts);
    expect(isSigningKeySigned(primitives, kind, signer.publicKey, facts, signature)).toBe(true);
    expect(signature).toEqual(signSigningKey(nodePrimitives, kind, signer, facts));
  }
});

test("a certificate is for one agent, one key and one time", () => {
  const certificate = signSigningKey(nodePrimitives, "certificate", agent.signing, facts);
  for (const changed of [
    { ...facts, agentId: other.agentId },
    { ...facts, publicKey: other.signing.publicKey },
    { ...facts, notAfter: facts.notAfter + 1 },
  ]) {
    expect(isSigningKeySigned(nodePrimitives, "certificate", agent.signing.publicKey, changed, certificate)).toBe(
      false,
    );
  }
  expect(isSigningKeySigned(nodePrimitives, "certificate", other.signing.publicKey, facts, certificate)).toBe(false);
});

test("a certificate is no proof, and a proof no certificate", () => {
  const certificate = signSigningKey(nodePrimitives, "certificate", agent.signing, facts);
  const proof = signSigningKey(nodePrimitives, "proof", agent.signing, facts);
  expect(isSigningKeySigned(nodePrimitives, "proof", agent.signing.publicKey, facts, certificate)).toBe(false);
  expect(isSigningKeySigned(nodePrimitives, "certificate", agent.signing.publicKey, facts, proof)).toBe(false);
});

test("with any bit flipped it does not hold", () => {
  const certificate = signSigningKey(nodePrimitives, "certificate", agent.signing, facts);
  fc.assert(
    fc.property(fc.nat({ max: certificate.length * 8 - 1 }), (bit) => {
      const flipped = certificate.slice();
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      return !isSigningKeySigned(nodePrimitives, "certificate", agent.signing.publicKey, facts, flipped);
    }),
  );
});
