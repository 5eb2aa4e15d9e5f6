/**
 * Whose word the operator takes about owners: two variables, and a file of trusted issuers, read once and checked (docs/identity.md).
 */
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { z } from "zod";
import { isFetchable } from "../api/owners/issuer-keys.ts";
import { OIDC_ALGORITHMS } from "../api/owners/oidc.ts";

/** Issuers are texts that stand in facts; a URL without the surprises of a query. */
const name = z.string().regex(/^[\x21-\x7e]{1,255}$/, { error: "1 to 255 printable characters without a space" });

const fetchable = z.string().refine(isFetchable, { error: "an https URL without a user (http on this machine only)" });

const publicKey = z
  .looseObject({
    kty: z.enum(["OKP", "EC", "RSA"], { error: "OKP, EC or RSA: a public key" }),
    kid: z.string().optional(),
  })
  .superRefine((jwk, { addIssue }) => {
    if ("d" in jwk) addIssue({ code: "custom", path: ["d"], message: "a private key: give the public part only" });
    else if (!isKey(jwk)) addIssue({ code: "custom", message: "not a public key as RFC 7517 writes it" });
  });

const jwks = z.strictObject({ keys: z.array(publicKey).min(1).max(100) });

const statements = z.strictObject({
  kind: z.literal("statements"),
  issuer: name,
  audience: name.optional(),
  jwks: z
    .strictObject({
      keys: z
        .array(
          publicKey.refine(({ kty, crv }) => kty === "OKP" && crv === "Ed25519", { error: "not an Ed25519 key (OKP)" }),
        )
        .min(1)
        .max(100),
    })
    .optional(),
  jwks_uri: fetchable.optional(),
});

const oidc = z.strictObject({
  kind: z.literal("oidc"),
  issuer: name.and(fetchable),
  audience: name.optional(),
  jwks: jwks.optional(),
  jwks_uri: fetchable.optional(),
  algorithms: z.array(z.enum(OIDC_ALGORITHMS)).min(1).default(["RS256", "ES256"]),
  scopes: z
    .strictObject({ register: name.default("sealpost:register"), manage: name.default("sealpost:manage") })
    .default({ register: "sealpost:register", manage: "sealpost:manage" }),
});

const ownersFile = z
  .strictObject({
    audience: name,
    issuers: z
      .array(z.discriminatedUnion("kind", [statements, oidc]))
      .min(1)
      .max(100),
  })
  .superRefine(({ issuers }, { addIssue }) => {
    const names = new Set<string>();
    for (const [index, issuer] of issuers.entries()) {
      const path = ["issuers", index];
      if (names.has(issuer.issuer))
        addIssue({ code: "custom", path: [...path, "issuer"], message: "stands there twice" });
      names.add(issuer.issuer);
      if (issuer.jwks !== undefined && issuer.jwks_uri !== undefined)
        addIssue({ code: "custom", path: [...path, "jwks_uri"], message: "either this or jwks" });
      if (issuer.kind === "statements" && issuer.jwks === undefined && issuer.jwks_uri === undefined)
        addIssue({ code: "custom", path: [...path, "jwks"], message: "the issuer's keys: this or jwks_uri" });
    }
  });

function isKey(jwk: object): boolean {
  try {
    createPublicKey({ key: jwk, format: "jwk" });
    return true;
  } catch {
    return false;
  }
}

type OwnersFile = z.output<typeof ownersFile>;

export type IssuerConfig = OwnersFile["issuers"][number] & { readonly audience: string };

export interface OwnersConfig {
  readonly registration: "owned" | "open";
  readonly issuers: readonly IssuerConfig[];
}

const variables = z.object({
  /** May agents register without an owner? */
  SEALPOST_REGISTRATION: z.enum(["owned", "open"]).default("owned"),
  /** Trusted issuers, as JSON. */
  SEALPOST_OWNERS_FILE: z.string().min(1).optional(),
});

type Parse = <Values>(schema: z.ZodType<Values>) => Values;

/** @throws Error with a line for each place of the file that is wrong */
export function readOwnersConfig(parse: Parse): OwnersConfig {
  const { SEALPOST_REGISTRATION: registration, SEALPOST_OWNERS_FILE: path } = parse(variables);
  return { registration, issuers: path === undefined ? [] : readOwnersFile(path) };
}

function readOwnersFile(path: string): readonly IssuerConfig[] {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new Error(
      `SEALPOST_OWNERS_FILE: it cannot be read as JSON (${error instanceof Error ? error.message : ""})`,
      {
        cause: error,
      },
    );
  }
  const parsed = ownersFile.safeParse(json);
  if (!parsed.success) {
    const lines = parsed.error.issues.map(({ path: place, message }) => `  ${place.join(".")}: ${message}`);
    throw new Error(`SEALPOST_OWNERS_FILE is wrong:\n${lines.join("\n")}\ndocs/identity.md shows one.`);
  }
  const { audience, issuers } = parsed.data;
  return issuers.map((issuer) => ({ ...issuer, audience: issuer.audience ?? audience }));
}
