/** Prekeys: uploading, looking at and claiming them. */
import { z } from "zod";
import "zod-openapi";
import { PREKEY_UPLOAD_MAX } from "../../protocol/limits.ts";
import { agentId, base64url, exampleId, exampleKey, identityKey, timestamp, uuid } from "./value-schemas.ts";

const signedPrekey = z
  .strictObject({
    id: uuid,
    created_at: timestamp,
    public_key: base64url(32).describe("X25519"),
    signature: base64url(64).describe("By the identity key (protocol.md §2)"),
  })
  .meta({ id: "SignedPrekey" });

const oneTimePrekey = z
  .strictObject({ id: uuid, public_key: base64url(32).describe("X25519") })
  .meta({ id: "OneTimePrekey" });

/** protocol.md §2: ML-KEM-768, its encapsulation key. */
const KEM_KEY_BYTES = 1_184;

const kemPrekeyMembers = {
  id: uuid,
  created_at: timestamp,
  public_key: base64url(KEM_KEY_BYTES).describe("ML-KEM-768"),
  signature: base64url(64).describe("By the identity key (protocol.md §2)"),
};

const kemPrekey = z.strictObject(kemPrekeyMembers).meta({ id: "KemPrekey" });

export const uploadPrekeysBody = z
  .strictObject({
    signed_prekey: signedPrekey.optional(),
    last_resort_kem_prekey: kemPrekey.optional().describe("Handed out when there is no other, repeatedly"),
    one_time_prekeys: z.array(oneTimePrekey).max(PREKEY_UPLOAD_MAX).optional(),
    kem_prekeys: z.array(kemPrekey).max(PREKEY_UPLOAD_MAX).optional().describe("Handed out once each"),
    replace: z
      .literal(true)
      .optional()
      .describe("One-time prekeys of both kinds that wait and are not in the call are handed out no more"),
  })
  .meta({
    id: "PrekeyUpload",
    description: "Prekeys of any kinds",
    example: { one_time_prekeys: [{ id: exampleId, public_key: exampleKey }] },
  });

export const uploadPrekeysAnswer = z
  .strictObject({
    one_time_prekeys_remaining: z.int().min(0),
    kem_prekeys_remaining: z.int().min(0),
    signed_prekey_id: uuid.optional().describe("The signed prekey of this call"),
  })
  .meta({ id: "PrekeysStored" });

const stockedPrekey = z.strictObject({ id: uuid, created_at: timestamp }).meta({ id: "StockedPrekey" });

export const ownPrekeysAnswer = z
  .strictObject({
    agent_id: agentId,
    signed_prekey: stockedPrekey.optional().describe("What new bundles hold; absent when there is none"),
    last_resort_kem_prekey: stockedPrekey.optional().describe("Absent when there is none"),
    one_time_prekeys: z.int().min(0).describe("X25519 ones that can still be handed out"),
    kem_prekeys: z.int().min(0).describe("ML-KEM-768 ones that can still be handed out"),
    signed_prekey_age_seconds: z.int().min(0).optional(),
    rotation_due: z.boolean().describe("A new signed prekey and a new KEM prekey of last resort should be published"),
    digest: base64url(32).describe("Of all that can be handed out (docs/protocol.md)"),
  })
  .meta({ id: "PrekeyStock" });

export const prekeysPath = z.strictObject({ recipient: agentId });

export const bundleAnswer = z
  .strictObject({
    bundle: z
      .strictObject({
        agent_id: agentId,
        identity_key: identityKey,
        signed_prekey: signedPrekey,
        one_time_prekey: oneTimePrekey.optional().describe("Absent when none is left, or over the agent's budget"),
        kem_prekey: z
          .strictObject({
            ...kemPrekeyMembers,
            last_resort: z.boolean().describe("It may be handed out again"),
          })
          .meta({ id: "BundledKemPrekey" })
          .optional()
          .describe("Absent when the agent has none"),
      })
      .meta({ id: "Bundle" }),
    one_time_prekeys_remaining: z.int().min(0),
    kem_prekeys_remaining: z.int().min(0),
    last_resort: z
      .boolean()
      .describe(
        "A prekey of the bundle is used repeatedly: there is no one-time prekey, or the KEM prekey is the one of last resort",
      ),
  })
  .meta({ id: "ClaimedBundle" });
