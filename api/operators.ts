/**
 * Who operates the service: whoever has the one token that stands in its environment. It is no agent's and opens nothing of an agent's.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { ApiRefusal } from "./problem.ts";

/**
 * Compares in a time that says nothing about the token.
 *
 * @param token undefined: nobody is an operator
 * @param authorization the header's value
 * @throws ApiRefusal `operator-unknown`
 */
export function requireOperator(token: string | undefined, authorization: string | undefined): void {
  const [, given] = /^Bearer ([\x21-\x7e]+)$/i.exec(authorization ?? "") ?? [];
  if (token === undefined || given === undefined || !timingSafeEqual(digestOf(given), digestOf(token))) {
    throw new ApiRefusal("operator-unknown", { field: "Authorization" });
  }
}

/** Of one length, whatever was sent. */
function digestOf(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
