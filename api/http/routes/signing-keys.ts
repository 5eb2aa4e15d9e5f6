/** Further keys that sign the caller's requests. */
import { encodeBase64Url } from "../../../protocol/base64url.ts";
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { SigningKey } from "../../../store/signing-keys.ts";
import { addSigningKey, ownSigningKeys, removeSigningKey } from "../../operations/signing-keys.ts";
import {
  removedSigningKeyAnswer,
  signingKeyAnswer,
  signingKeyBody,
  signingKeyPath,
  signingKeysAnswer,
} from "../owner-schemas.ts";
import { route } from "../route.ts";
import { checkedBytes, checkedTime } from "../validation.ts";

export const putSigningKey = route({
  method: "PUT",
  path: "/messaging/signing-keys/{key_id}",
  operationId: "putSigningKey",
  summary: "Add a key that signs the agent's requests",
  description:
    "Certified by the agent's own key (with custody server: its access key), so that several workers act for one agent and that key stays offline. A request's keyid may then be this key_id. Again, with a new certificate, it says until when the key is in force.",
  signedBy: "agent",
  needsRedis: true,
  request: { path: signingKeyPath, body: signingKeyBody },
  answers: {
    201: { description: "Added", schema: signingKeyAnswer },
    200: { description: "It was there, and is as this call says", schema: signingKeyAnswer },
  },
  refuses: [
    "signing-key-invalid",
    "signing-key-taken",
    "signing-key-removed",
    "signing-key-shorter",
    "signing-keys-full",
    "rate-limited",
  ],
  handle: async (deps, { caller, path, body }) => {
    const { key, created } = await addSigningKey(deps, caller, {
      keyId: path.key_id,
      publicKey: checkedBytes(body.public_key),
      notAfter: checkedTime(body.not_after),
      certificate: checkedBytes(body.certificate),
      proof: checkedBytes(body.proof),
    });
    return { status: created ? 201 : 200, json: toWire(key) };
  },
});

export const listSigningKeys = route({
  method: "GET",
  path: "/messaging/signing-keys",
  operationId: "listSigningKeys",
  summary: "See the agent's signing keys",
  description: "Those in force; the agent's own key is none of them.",
  signedBy: "agent",
  request: {},
  answers: { 200: { description: "The oldest first", schema: signingKeysAnswer } },
  refuses: [],
  handle: async (deps, { caller }) => ({
    status: 200,
    json: { keys: (await ownSigningKeys(deps, caller)).map(toWire) },
  }),
});

export const deleteSigningKey = route({
  method: "DELETE",
  path: "/messaging/signing-keys/{key_id}",
  operationId: "deleteSigningKey",
  summary: "Remove a signing key",
  description:
    "Its requests are refused and its stream is closed within 5 s. It does not come back: its certificate is worth nothing any more.",
  // Without Redis as well, for bad days: said twice, it removes nothing more.
  signedBy: "agent",
  request: { path: signingKeyPath },
  answers: { 200: { description: "It is not in force (any more)", schema: removedSigningKeyAnswer } },
  refuses: [],
  handle: async (deps, { caller, path: { key_id: keyId } }) => ({
    status: 200,
    json: { key_id: keyId, removed: await removeSigningKey(deps, caller, keyId) },
  }),
});

function toWire({ keyId, publicKey, notAfter, createdAt }: SigningKey) {
  return {
    key_id: keyId,
    public_key: encodeBase64Url(publicKey),
    not_after: formatTimestamp(notAfter),
    created_at: formatTimestamp(createdAt),
  };
}
