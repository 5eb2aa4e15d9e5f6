/** Content-Digest (RFC 9530), SHA-256 only: what binds a signature to a body. */
import { createHash, timingSafeEqual } from "node:crypto";
import { isInnerList, parseDictionary } from "structured-headers";
import { ApiRefusal } from "./problem.ts";

/**
 * Refuses (`digest-mismatch`) unless the header's `sha-256` is the digest of the body. Other digests in it are not looked at.
 */
export function checkContentDigest(header: string | undefined, body: Uint8Array): void {
  if (header === undefined) throw mismatch("the header is missing");
  const claimed = sha256Member(header);
  if (claimed === null) throw mismatch("the header has no member sha-256=:…:");
  const actual = createHash("sha256").update(body).digest();
  if (claimed.length !== actual.length || !timingSafeEqual(claimed, actual)) {
    throw mismatch("the body that arrived has another digest");
  }
}

function sha256Member(header: string): Uint8Array | null {
  try {
    const member = parseDictionary(header).get("sha-256");
    if (member === undefined || isInnerList(member) || !(member[0] instanceof ArrayBuffer)) return null;
    return new Uint8Array(member[0]);
  } catch {
    // The one way parsing fails: it is no dictionary.
    return null;
  }
}

function mismatch(detail: string): ApiRefusal {
  return new ApiRefusal("digest-mismatch", { field: "Content-Digest", detail });
}
