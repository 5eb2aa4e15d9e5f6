import { identityFromSeed } from "../identity.ts";
import { bundleFromJson, bundleToJson, checkBundle, isPrekeySignatureValid, signPrekey } from "../prekeys.ts";
import { type Case, Fields, Mismatch } from "./case.ts";

export function prekeyCases(file: Fields): Case[] {
  return [...file.list("signatures").map(signatureCase), ...file.list("bundles").map(bundleCase)];
}

function signatureCase(value: unknown, index: number): Case {
  return {
    name: `signature ${index}: ${new Fields(value).comment("reason")}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const kind = fields.string("kind");
      if (kind !== "signed-prekey" && kind !== "kem-prekey") throw new Mismatch("an unknown kind of prekey");
      const me = identityFromSeed(primitives, fields.bytes("seed"));
      const identityKey = fields.bytes("identity_key");
      const facts = {
        id: fields.string("id"),
        createdAt: fields.time("created_at"),
        publicKey: fields.bytes("public_key"),
      };
      const signature = fields.bytes("signature");
      const valid = fields.boolean("valid");
      checks.equal("identity_key", me.signing.publicKey, identityKey);
      checks.equal("valid", isPrekeySignatureValid(primitives, identityKey, kind, { ...facts, signature }), valid);
      if (valid) checks.equal("the signature made anew", signPrekey(primitives, me, kind, facts), signature);
      fields.comment("reason");
      fields.end();
    },
  };
}

function bundleCase(value: unknown): Case {
  return {
    name: `bundle: ${new Fields(value).string("name")}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const json = fields.value("bundle");
      const now = fields.time("now");
      if (fields.boolean("valid")) {
        const bundle = bundleFromJson(json);
        checkBundle(primitives, bundle, now);
        checks.equal("the bundle's JSON made anew", bundleToJson(bundle), json);
      } else {
        const failedCheck = fields.string("failed_check");
        checks.refuses(() => checkBundle(primitives, bundleFromJson(json), now), [failedCheck]);
      }
      fields.string("name");
      fields.end();
    },
  };
}
