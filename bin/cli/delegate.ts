/** Letting other agents act for this one, seeing what a chain says, and taking it back (docs/delegation.md). */
import { readFile } from "node:fs/promises";
import { type DelegationScope, delegationScopes } from "../../protocol/delegation.ts";
import { readDelegation } from "../../sdk/delegation.ts";
import { type Command, inTime, readWords, secondsOf, WrongWords, withAgent, writeFacts, writeOut } from "./terminal.ts";

const UNIT_MS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

export const delegate: Command = {
  summary: "let another agent act for this one, within limits",
  usage: `Usage: sealpost delegate --to AGENT (--recipient AGENT … | --anybody) --expires TIME [--scope send,claim] …

Prints a chain of delegation for the agent to act under: sealpost send --delegation FILE. The service is not asked.

  --to AGENT         who may act
  --recipient AGENT  whom it may write to; again for more, up to 16
  --anybody          it may write to anybody
  --expires TIME     for how long: 30m, 1h, 7d; at most 90d
  --scope NAMES      send, claim or both (default), with a comma
  --key THUMBPRINT   the key that AGENT signs with, if the service holds its keys: key_id of its sealpost id --json
  --under FILE       the chain that this agent was given itself: what it delegates is then the first issuer's`,
  run: async (args, signal) => {
    const { values, positionals } = readWords(args, {
      to: { type: "string" },
      recipient: { type: "string", multiple: true, default: [] },
      anybody: { type: "boolean", default: false },
      expires: { type: "string" },
      scope: { type: "string", default: delegationScopes.join(",") },
      key: { type: "string" },
      under: { type: "string" },
    });
    const { to, recipient: recipients, anybody, key } = values;
    if (positionals.length > 0 || to === undefined) throw new WrongWords("delegate takes --to AGENT");
    if (anybody === recipients.length > 0) throw new WrongWords("name each --recipient, or say --anybody");
    const options = {
      ...{ to, recipients: anybody ? ("*" as const) : recipients, lifeMs: lifeOf(values.expires) },
      scope: scopesOf(values.scope),
      ...(key === undefined ? {} : { keyId: key }),
      ...(values.under === undefined ? {} : { under: await chainIn(values.under) }),
    };
    return withAgent(values, { signal }, async (agent) => {
      const { chain, tokenId, expiresAt } = await agent.delegate(options);
      const facts = { delegation: chain, jti: tokenId, expires_at: new Date(expiresAt).toISOString() };
      return writeOut(values.json ? `${JSON.stringify(facts)}\n` : `${chain}\n`);
    });
  },
};

export const delegation: Command = {
  summary: "say what a chain of delegation says, or take a delegation back",
  usage: `Usage: sealpost delegation show FILE [--json]
       sealpost delegation revoke JTI [--wait SECONDS]

show     prints each link of the chain: who lets whom act, for what, until when, and its jti. Nothing is checked.
revoke   takes back a delegation that this agent made; within 5 s no chain with it is taken any more.

  --wait SECONDS   how long to wait for the service (20)`,
  run: async (args, signal) => {
    const { values, positionals } = readWords(args, { wait: { type: "string", default: "20" } });
    const [word, what, ...rest] = positionals;
    if ((word !== "show" && word !== "revoke") || what === undefined || rest.length > 0) {
      throw new WrongWords("delegation takes show FILE or revoke JTI");
    }
    if (word === "show") return show(await chainIn(what), values.json);
    const waitMs = secondsOf("wait", values.wait);
    return withAgent(values, { signal }, (agent) =>
      inTime(
        waitMs,
        async () => {
          await agent.revokeDelegation(what);
          return writeFacts(values.json, { jti: what, state: "revoked" });
        },
        "the service did not answer in time: do the same again",
      ),
    );
  },
};

/** The chain in a file. */
export async function chainIn(file: string): Promise<string> {
  return (await readFile(file, "utf8")).trim();
}

async function show(chain: string, isJson: boolean): Promise<number> {
  for (const { iss, sub, aud, exp, jti, scope, to } of readDelegation(chain)) {
    const facts = { issuer: iss, delegate: sub, service: aud, scope: scope.join(" "), recipients: to, jti };
    await writeFacts(isJson, { ...facts, expires_at: new Date(exp * 1_000).toISOString() });
  }
  return 0;
}

function lifeOf(text: string | undefined): number {
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text ?? "") ?? [];
  if (count === undefined || unit === undefined) throw new WrongWords("--expires takes a time such as 30m, 1h or 7d");
  return Number(count) * UNIT_MS[unit as keyof typeof UNIT_MS];
}

function scopesOf(text: string): readonly DelegationScope[] {
  return text.split(",").map((name) => {
    const scope = delegationScopes.find((known) => known === name);
    if (scope === undefined) throw new WrongWords(`--scope takes ${delegationScopes.join(",")}`);
    return scope;
  });
}
