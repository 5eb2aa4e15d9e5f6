/**
 * The door to the library for HTTP Message Signatures (RFC 9421): the only file that imports `http-message-sig`.
 *
 * Promise: `verifyHttpSignature` answers only for a request whose single signature covers at least the wanted components and
 * parameters, is in time, and verifies under the key the caller named. Everything else is an `ApiRefusal` that names the
 * component or parameter at fault. The library decides; `whyNot` only puts its decision into words.
 */
import { isSignatureError, type SignatureError, type SignatureParameters, verifySignature } from "http-message-sig";
import { type Dictionary, isInnerList, parseDictionary } from "structured-headers";
import { ApiRefusal } from "./problem.ts";

/** A request as it arrived. */
export interface SignedRequest {
  readonly method: string;
  /** The request target as it was sent: path and query. */
  readonly target: string;
  /** Scheme and authority the request was made to: what `@authority` is checked against. */
  readonly origin: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** It says that it has one. */
  readonly hasBody: boolean;
}

export interface SignaturePolicy {
  readonly components: readonly string[];
  readonly lifeSecondsMax: number;
  readonly clockSkewSeconds: number;
  readonly nonceLengthMax: number;
}

/** What the signature's parameters said, all covered by the signature. Times in seconds since the epoch. */
export interface VerifiedParameters {
  readonly keyid: string;
  readonly nonce: string;
  readonly created: number;
  readonly expires: number;
}

/** Answers whether `signature` is the key's over `data`. */
export type VerifyWithKey = (data: Uint8Array, signature: Uint8Array) => boolean;

const requiredParameters = ["created", "expires", "nonce", "keyid"] as const;

/**
 * Verifies the request's signature with the key that `keyOf` finds for its (yet unproven) `keyid`.
 *
 * @throws ApiRefusal `signature-missing`, `signature-invalid`, `signature-expired`, and what `keyOf` throws.
 */
export async function verifyHttpSignature(
  request: SignedRequest,
  policy: SignaturePolicy,
  nowMs: number,
  keyOf: (keyid: string) => Promise<VerifyWithKey>,
): Promise<VerifiedParameters> {
  requireSignatureHeaders(request);
  const nowSeconds = Math.floor(nowMs / 1000);
  try {
    const { parameters } = await verifySignature(
      {
        kind: "request",
        method: request.method,
        targetUri: request.origin + request.target,
        // A header with other characters cannot be covered; the library would refuse the whole request for it.
        fields: request.headers.filter(([, value]) => isFieldText(value)).map(([name, value]) => ({ name, value })),
      },
      {
        policy: {
          algorithms: ["ed25519"],
          requiredComponents: policy.components,
          requiredParameters,
          maxAge: policy.lifeSecondsMax,
          clockSkew: policy.clockSkewSeconds,
          now: nowSeconds,
        },
        resolveVerifier: async (candidate) => {
          const { keyid } = checkedParameters(candidate.parameters, policy);
          return { algorithm: "ed25519", verify: await keyOf(keyid) };
        },
      },
    );
    return checkedParameters(parameters, policy);
  } catch (error) {
    if (!isSignatureError(error)) throw error;
    throw refusalFor(error, request, policy, nowSeconds);
  }
}

/** Cheap enough to ask before a body is read. */
export function requireSignatureHeaders(request: Pick<SignedRequest, "headers">): void {
  for (const wanted of ["Signature-Input", "Signature"]) {
    if (header(request, wanted) === undefined) throw new ApiRefusal("signature-missing", { field: wanted });
  }
}

/** All lines of a header, joined as RFC 9110 says; undefined when there is none. */
export function header(request: Pick<SignedRequest, "headers">, name: string): string | undefined {
  const wanted = name.toLowerCase();
  const lines = request.headers.filter(([found]) => found.toLowerCase() === wanted).map(([, value]) => value.trim());
  return lines.length === 0 ? undefined : lines.join(", ");
}

function checkedParameters(parameters: SignatureParameters, policy: SignaturePolicy): VerifiedParameters {
  const { keyid, nonce, created, expires } = parameters;
  if (keyid === undefined || nonce === undefined || created === undefined || expires === undefined) {
    throw new Error("the library let a signature without required parameters through");
  }
  if (nonce.length === 0 || nonce.length > policy.nonceLengthMax) {
    throw invalid("nonce", `a nonce has 1 to ${policy.nonceLengthMax} characters`);
  }
  if (expires <= created || expires - created > policy.lifeSecondsMax) {
    throw invalid("expires", `expires lies after created, by at most ${policy.lifeSecondsMax} seconds`);
  }
  return { keyid, nonce, created, expires };
}

function refusalFor(
  error: SignatureError,
  request: SignedRequest,
  policy: SignaturePolicy,
  nowSeconds: number,
): unknown {
  switch (error.code) {
    case "ResolverFailed":
      return error.cause;
    case "PolicyViolation":
      return whyNot(request, policy, nowSeconds);
    case "AlgorithmMismatch":
      return invalid("alg", "only ed25519 is taken");
    case "VerificationFailed":
      return new ApiRefusal("signature-invalid", {
        field: "Signature",
        detail: "the signature does not verify over the covered components as they arrived",
        fix: "Sign with the private key of the agent in keyid, over the method, path, query and body that are sent; compare @authority with server_authority.",
        authority: authorityOf(request.origin),
      });
    case "MissingField":
      return invalid("Signature-Input", "it covers a header that did not arrive");
    case "LabelRequired":
      return invalid("Signature-Input", "there is more than one signature");
    case "LabelMismatch":
      return invalid("Signature", "Signature and Signature-Input have different labels");
    default:
      return invalid(
        "Signature-Input",
        "Signature-Input or Signature is not well-formed, or uses parts of RFC 9421 that are not taken here",
      );
  }
}

/** The first thing that breaks the policy, in the order of `docs/api.md`. */
function whyNot(request: SignedRequest, policy: SignaturePolicy, nowSeconds: number): ApiRefusal {
  const { components, parameters } = parsedInput(request);
  for (const wanted of policy.components) {
    if (!components.has(wanted)) return invalid(wanted, `the signature does not cover ${wanted}`);
  }
  for (const wanted of requiredParameters) {
    if (!parameters.has(wanted)) return invalid(wanted, `the signature has no parameter ${wanted}`);
  }
  const alg = parameters.get("alg");
  if (alg !== undefined && alg !== "ed25519") return invalid("alg", "only ed25519 is taken");
  const created = Number(parameters.get("created"));
  if (created > nowSeconds + policy.clockSkewSeconds) {
    return invalid("created", "the signature was created in the future; compare your clock with server_time");
  }
  const expires = Number(parameters.get("expires"));
  const field = expires < nowSeconds ? "expires" : "created";
  return new ApiRefusal("signature-expired", { field });
}

function parsedInput(request: SignedRequest): { components: Set<string>; parameters: Map<string, unknown> } {
  // The lines that the library was given: another one must not make a refusal a failure.
  const headers = request.headers.filter(([, value]) => isFieldText(value));
  const [member] = (parseDictionary(header({ headers }, "Signature-Input") ?? "") as Dictionary).values();
  if (member === undefined || !isInnerList(member)) return { components: new Set(), parameters: new Map() };
  const plain = member[0].filter(([, parameters]) => parameters.size === 0);
  return { components: new Set(plain.map(([name]) => String(name))), parameters: member[1] };
}

function invalid(field: string, detail: string): ApiRefusal {
  return new ApiRefusal("signature-invalid", { field, detail });
}

/** `@authority` as a signature has it: without the scheme's own port. */
export function authorityOf(origin: string): string {
  return new URL(origin).host;
}

function isFieldText(value: string): boolean {
  return /^[\t\x20-\x7e]*$/.test(value);
}
