/**
 * Signatures of requests by the agent's key (RFC 9421, Ed25519; RFC 9530 for the digest of a body).
 *
 * Each has its own nonce and lives for two minutes; a request that is tried again is signed again.
 */
import { createHash } from "node:crypto";
import { createSignatureSync } from "http-message-sig";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { DELEGATION_HEADER } from "../protocol/delegation.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { KeyPair } from "../protocol/primitives/primitives.ts";

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

/** Whose calls they are, and the key that signs them: the agent's own, or its access key. */
export interface Signer {
  readonly agentId: string;
  readonly signing: KeyPair;
  /** The chain of delegation that every call presents. */
  readonly delegation?: string | undefined;
}

/** The headers to add. */
export function signRequest(me: Signer, { method, url, body, now }: SignedRequest): Record<string, string> {
  const added = {
    ...(body === null ? {} : { "content-digest": contentDigest(body) }),
    ...(me.delegation === undefined ? {} : { [DELEGATION_HEADER]: me.delegation }),
  };
  const created = Math.floor(now / 1000);
  const { signature, signatureInput } = createSignatureSync(
    {
      kind: "request",
      method,
      targetUri: url.href,
      fields: Object.entries(added).map(([name, value]) => ({ name, value })),
    },
    {
      components: [...COMPONENTS, ...Object.keys(added)],
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
  return { ...added, signature, "signature-input": signatureInput };
}

function contentDigest(body: Uint8Array): string {
  return `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;
}
