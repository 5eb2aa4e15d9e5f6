/**
 * Signatures of requests by the agent's identity key (RFC 9421, Ed25519; RFC 9530 for the digest of a body).
 *
 * Each has its own nonce and lives for two minutes; a request that is tried again is signed again.
 */
import { createHash } from "node:crypto";
import { createSignatureSync } from "http-message-sig";
import { encodeBase64Url } from "../protocol/base64url.ts";
import type { Identity } from "../protocol/identity.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";

/** The service allows 300. Long enough for a slow upload and a clock that is a little off. */
const LIFE_S = 120;
const NONCE_BYTES = 16;
const COMPONENTS = ["@method", "@authority", "@path", "@query"];

export interface SignedRequest {
  readonly method: string;
  /** http or https, also for a stream. */
  readonly url: URL;
  readonly body: Uint8Array | null;
  /** Milliseconds. */
  readonly now: number;
}

/** The headers to add. */
export function signRequest(me: Identity, { method, url, body, now }: SignedRequest): Record<string, string> {
  const digest = body === null ? {} : { "content-digest": contentDigest(body) };
  const created = Math.floor(now / 1000);
  const { signature, signatureInput } = createSignatureSync(
    {
      kind: "request",
      method,
      targetUri: url.href,
      fields: Object.entries(digest).map(([name, value]) => ({ name, value })),
    },
    {
      components: body === null ? COMPONENTS : [...COMPONENTS, "content-digest"],
      parameters: {
        created,
        expires: created + LIFE_S,
        nonce: encodeBase64Url(nodeRandom(NONCE_BYTES)),
        keyid: me.agentId,
        alg: "ed25519",
      },
      signer: { algorithm: "ed25519", sign: (data) => nodePrimitives.ed25519Sign(me.signing, data) },
    },
  );
  return { ...digest, signature, "signature-input": signatureInput };
}

function contentDigest(body: Uint8Array): string {
  return `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;
}
