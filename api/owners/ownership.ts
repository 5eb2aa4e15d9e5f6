/**
 * Who answers for an agent: asked when it registers, and when an owner calls.
 *
 * Promise: unless the operator has opened the registration, no agent is registered, and so none publishes prekeys, without an owner that a
 * trusted issuer vouches for. A statement that is shown is always judged, also where none is needed.
 */
import { createHash } from "node:crypto";
import { decodeJwt } from "jose";
import { ApiRefusal } from "../problem.ts";
import { type Asked, Broken, type Issuer, type Owner, RULES } from "./issuer.ts";

export type { Owner } from "./issuer.ts";

/** The port. Both throw `Unavailable` when an issuer's keys cannot be had. */
export interface Ownership {
  /**
   * Of an agent that registers with the key of this thumbprint (of server custody: its access key); null: it has none, and needs none.
   *
   * @throws ApiRefusal `registration-closed`, `owner-statement-missing`, `owner-statement-invalid`
   */
  ownerOfNew(statement: string | null, keyId: string, nowMs: number): Promise<Owner | null>;
  /** Of an owner's own call. @throws ApiRefusal `owner-unknown` */
  ownerOfCall(authorization: string | undefined, nowMs: number): Promise<Owner>;
}

export interface OwnershipOptions {
  /** `open`: agents register without an owner, too. */
  readonly registration: "owned" | "open";
  readonly issuers: readonly Issuer[];
}

export function ownershipOf({ registration, issuers }: OwnershipOptions): Ownership {
  const byName = new Map(issuers.map((issuer) => [issuer.name, issuer]));
  const judge = async (token: string, asked: Asked, nowMs: number): Promise<Owner> => {
    const issuer = byName.get(issuerOf(token));
    if (issuer === undefined) throw new Broken("issuer");
    return issuer.check(token, asked, nowMs);
  };
  return {
    ownerOfNew: async (statement, keyId, nowMs) => {
      if (statement === null) {
        if (registration === "open") return null;
        throw new ApiRefusal(byName.size === 0 ? "registration-closed" : "owner-statement-missing", {
          field: "/owner_statement",
        });
      }
      return judge(statement, { to: "register", keyId }, nowMs).catch((error: unknown) => {
        throw refusalOf(error, "owner-statement-invalid", "/owner_statement");
      });
    },
    ownerOfCall: async (authorization, nowMs) => {
      const token = tokenOf(authorization);
      if (token === undefined) throw new ApiRefusal("owner-unknown", { field: "Authorization" });
      return judge(token, { to: "manage" }, nowMs).catch((error: unknown) => {
        throw refusalOf(error, "owner-unknown", "Authorization");
      });
    },
  };
}

/** As it stands in facts. */
export function actorOf({ issuer, subject }: Owner): string {
  return `owner:${issuer}#${subject}`;
}

/** Of one length, whatever issuer and subject are; for what is counted by owner. */
export function keyOfOwner({ issuer, subject }: Owner): string {
  return `owner ${createHash("sha256")
    .update(JSON.stringify([issuer, subject]))
    .digest("base64url")}`;
}

/** Unproven; null where a token names none. */
export function claimedOwner(authorization: string | undefined): Owner | null {
  try {
    const { iss: issuer, sub: subject } = decodeJwt(tokenOf(authorization) ?? "");
    return typeof issuer === "string" && typeof subject === "string" ? { issuer, subject } : null;
  } catch {
    return null;
  }
}

function tokenOf(authorization: string | undefined): string | undefined {
  return /^Bearer ([\x21-\x7e]+)$/i.exec(authorization ?? "")?.[1];
}

/** Not proven yet: it only says whose keys to look at. */
function issuerOf(token: string): string {
  try {
    return decodeJwt(token).iss ?? "";
  } catch {
    throw new Broken("form");
  }
}

function refusalOf(error: unknown, code: "owner-statement-invalid" | "owner-unknown", field: string): unknown {
  if (!(error instanceof Broken)) return error;
  const [detail, fix] = RULES[error.rule];
  return new ApiRefusal(code, { field, detail, fix });
}
