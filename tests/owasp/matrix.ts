/**
 * The OWASP API Security Top 10 (2023) over every operation: which attacks each must withstand, or why a risk does not apply to it.
 *
 * What follows from an operation's declaration (who signs, whether there is a body, lists, pages) is attacked without being written here; this table says
 * what is particular to each. `docs/security-tests.md` is made from it.
 */
import type { Attack } from "./attack.ts";
import { digestAttacks, signatureAttacks, standingAttacks, tokenAttacks } from "./attacks-authentication.ts";
import { delegationAttacks } from "./attacks-delegation.ts";
import {
  agentFunctionAttacks,
  custodyAttacks,
  openFunctionAttacks,
  operatorFunctionAttacks,
  ownerFunctionAttacks,
} from "./attacks-functions.ts";
import { objectAttacks } from "./attacks-objects.ts";
import {
  keyObjectAttacks,
  ownedAgentAttacks,
  ownerStatementAttacks,
  ownerTokenAttacks,
  providerAttacks,
  signingKeyAttacks,
} from "./attacks-owners.ts";
import { answerAttacks, bodilessAttacks, bodyAttacks, propertyAttacks } from "./attacks-properties.ts";
import {
  bodyCostAttacks,
  callRateAttacks,
  costAttacks,
  flowAttacks,
  listAttacks,
  pageAttacks,
  unprovenRateAttacks,
} from "./attacks-resources.ts";
import {
  configurationAttacks,
  consumptionAttacks,
  inventoryAttacks,
  mediaTypeAttacks,
  requestForgeryAttacks,
} from "./attacks-surface.ts";
import { own } from "./own-cells.ts";
import type { Target } from "./targets.ts";

export const RISKS = {
  API1: "Broken object level authorization",
  API2: "Broken authentication",
  API3: "Broken object property level authorization",
  API4: "Unrestricted resource consumption",
  API5: "Broken function level authorization",
  API6: "Unrestricted access to sensitive business flows",
  API7: "Server side request forgery",
  API8: "Security misconfiguration",
  API9: "Improper inventory management",
  API10: "Unsafe consumption of APIs",
} as const;

export type Risk = keyof typeof RISKS;

export const attacks = {
  ...objectAttacks,
  ...signatureAttacks,
  ...digestAttacks,
  ...standingAttacks,
  ...delegationAttacks,
  ...signingKeyAttacks,
  ...ownerTokenAttacks,
  ...ownerStatementAttacks,
  ...ownedAgentAttacks,
  ...keyObjectAttacks,
  ...providerAttacks,
  ...ownerFunctionAttacks,
  ...tokenAttacks,
  ...bodyAttacks,
  ...bodilessAttacks,
  ...propertyAttacks,
  ...answerAttacks,
  ...costAttacks,
  ...bodyCostAttacks,
  ...listAttacks,
  ...pageAttacks,
  ...unprovenRateAttacks,
  ...callRateAttacks,
  ...flowAttacks,
  ...agentFunctionAttacks,
  ...custodyAttacks,
  ...operatorFunctionAttacks,
  ...openFunctionAttacks,
  ...requestForgeryAttacks,
  ...configurationAttacks,
  ...mediaTypeAttacks,
  ...inventoryAttacks,
  ...consumptionAttacks,
} satisfies Record<string, Attack>;

export type AttackName = keyof typeof attacks;

/** Attacks, or why there are none. */
export type Cell = readonly AttackName[] | string;

/** What is particular to an operation. */
export interface Own {
  readonly API1: Cell;
  readonly API6: Cell;
  /** Besides what follows from the declaration. */
  readonly API3?: readonly AttackName[];
  readonly API5?: readonly AttackName[];
  /** Instead of: it takes no address. */
  readonly API7?: readonly AttackName[];
  readonly API10?: readonly AttackName[];
}

const names = (some: Readonly<Record<string, Attack>>) => Object.keys(some) as AttackName[];

export type Cells = Readonly<Record<Risk, Cell>>;

/** Of an operation that the table knows. */
export function cellsOf(target: Target): Cells {
  const cells = own[target.name];
  if (cells === undefined)
    throw new Error(`${target.name} is missing from tests/owasp/own-cells.ts: say how it is attacked`);
  return {
    API1: cells.API1,
    API2: authentication(target),
    API3: [...properties(target), ...(cells.API3 ?? [])],
    API4: costs(target),
    API5: [...functions(target), ...(cells.API5 ?? [])],
    API6: cells.API6,
    API7: cells.API7 ?? ["it takes no address that the service would call"],
    API8: [...names(configurationAttacks), ...(hasBody(target) ? names(mediaTypeAttacks) : [])],
    API9: names(inventoryAttacks),
    API10: [...names(consumptionAttacks), ...(cells.API10 ?? [])],
  };
}

function hasBody({ route }: Target): boolean {
  return route.request.body !== undefined;
}

function authentication(target: Target): Cell {
  const digest = hasBody(target) ? names(digestAttacks) : [];
  switch (target.route.signedBy) {
    case "nobody":
      return "open to everybody: it tells what anybody may know";
    case "operator":
      return names(tokenAttacks);
    case "owner":
      return names(ownerTokenAttacks);
    case "key-in-body":
      return [...names(signatureAttacks), ...digest, ...names(delegationAttacks), ...names(ownerStatementAttacks)];
    case "agent":
      return [
        ...names(signatureAttacks),
        ...digest,
        ...names(standingAttacks),
        ...names(signingKeyAttacks),
        ...names(delegationAttacks),
      ];
  }
}

function properties(target: Target): AttackName[] {
  const { signedBy } = target.route;
  return [
    ...names(answerAttacks),
    ...(hasBody(target) ? names(bodyAttacks) : names(bodilessAttacks)),
    ...(signedBy === "nobody" ? [] : names(propertyAttacks)),
  ];
}

function costs(target: Target): AttackName[] {
  const { signedBy, request } = target.route;
  const { body, query } = request;
  const isListed = Object.values(body?.shape ?? {}).some((member) => isList(member));
  return [
    ...names(costAttacks),
    ...(["agent", "key-in-body", "owner"].includes(signedBy) ? names(unprovenRateAttacks) : []),
    ...(signedBy === "agent" ? names(callRateAttacks) : []),
    ...(body === undefined ? [] : names(bodyCostAttacks)),
    ...(isListed ? names(listAttacks) : []),
    ...(query !== undefined && "limit" in query.shape ? names(pageAttacks) : []),
  ];
}

/** An array, or one that may be left out. */
function isList(schema: unknown): boolean {
  const { def } = schema as { def: { type: string; innerType?: unknown } };
  return def.type === "array" || (def.innerType !== undefined && isList(def.innerType));
}

function functions({ route }: Target): AttackName[] {
  switch (route.signedBy) {
    case "nobody":
      return names(openFunctionAttacks);
    case "operator":
      return names(operatorFunctionAttacks);
    case "owner":
      return names(ownerFunctionAttacks);
    case "key-in-body":
    case "agent":
      return names(agentFunctionAttacks);
  }
}
