/** What owners of agents do: make a key and statements where they have no provider, and see to their agents (docs/identity.md). */
import { generateKeyPairSync } from "node:crypto";
import { makeOwnerStatement } from "../../sdk/owner-statement.ts";
import { readAgentConfig } from "../config.ts";
import { decisionOf, decisionOptions } from "./agent-decisions.ts";
import { askedOf } from "./asking.ts";
import { readKeyFile, readToken, writeKeyFile } from "./key-file.ts";
import { type Command, parseWords, URL_DEFAULT, WrongWords, writeOut } from "./terminal.ts";

const MINUTES_MAX = 60;

const actions: Readonly<Record<string, (args: readonly string[], signal: AbortSignal) => Promise<number>>> = {
  keygen: async (args) => {
    const { positionals } = parseWords(args, {});
    const [path, ...rest] = positionals;
    if (path === undefined || rest.length > 0) throw new WrongWords("owner keygen takes one file");
    return writeJwks(writeKeyFile(path, generateKeyPairSync("ed25519").privateKey).publicJwk);
  },
  jwks: async (args) => {
    const { positionals } = parseWords(args, {});
    const [path, ...rest] = positionals;
    if (path === undefined || rest.length > 0) throw new WrongWords("owner jwks takes one file");
    return writeJwks(readKeyFile(path).publicJwk);
  },
  statement: async (args) => {
    const { values, positionals } = parseWords(args, {
      issuer: { type: "string" },
      subject: { type: "string" },
      audience: { type: "string" },
      agent: { type: "string" },
      manage: { type: "boolean", default: false },
      minutes: { type: "string", default: "10" },
    });
    const [path, ...rest] = positionals;
    const { issuer, subject, audience, agent, manage } = values;
    if (path === undefined || rest.length > 0) throw new WrongWords("owner statement takes the owner's key file");
    if (issuer === undefined || subject === undefined || audience === undefined) {
      throw new WrongWords("owner statement takes --issuer, --subject and --audience");
    }
    if ((agent === undefined) !== manage) throw new WrongWords("owner statement takes --agent KEY_ID, or --manage");
    const minutes = Number(values.minutes);
    if (!(minutes > 0 && minutes <= MINUTES_MAX)) throw new WrongWords(`--minutes is up to ${MINUTES_MAX}`);
    const { key, kid } = readKeyFile(path);
    const facts = { key, kid, issuer, subject, audience, keyId: agent ?? null, lifeSeconds: Math.round(minutes * 60) };
    return writeOut(`${await makeOwnerStatement(facts)}\n`);
  },
  agents: async (args, signal) => {
    const { issuer: _issuer, subject: _subject, ...own } = decisionOptions;
    const { values, positionals } = parseWords(args, {
      ...own,
      token: { type: "string" },
      url: { type: "string" },
      json: { type: "boolean", default: false },
    });
    const { call, text } = decisionOf("/owners", positionals, values);
    if (values.token === undefined) throw new WrongWords("owner agents takes a --token: a file, or - for stdin");
    const url = (values.url ?? readAgentConfig().url ?? URL_DEFAULT).replace(/\/+$/, "");
    const json = await askedOf({ url, token: await readToken(values.token) }, call, signal);
    return writeOut(values.json ? `${JSON.stringify(json)}\n` : text(json));
  },
};

export const owner: Command = {
  summary: "for owners of agents: keys, statements, and their agents",
  usage: `Usage: sealpost owner keygen FILE
       sealpost owner jwks FILE
       sealpost owner statement FILE --issuer NAME --subject OWNER --audience SERVICE
                                (--agent KEY_ID | --manage) [--minutes N]
       sealpost owner agents list [--status STATUS] [--limit N] [--after CURSOR]   --token FILE|-
       sealpost owner agents suspend|resume|revoke AGENT_ID --reason WORDS         --token FILE|-

keygen makes an owner's key, writes the private half to FILE and prints the public set, for the service's
operator; jwks prints it again. statement prints a statement, for one registration or for the owner's calls:

  --issuer, --audience  as the operator has them in SEALPOST_OWNERS_FILE
  --agent KEY_ID        what sealpost register --key-id prints in the agent's store
  --manage              for sealpost owner agents
  --minutes N           how long it holds: 10, at most 60
  --token FILE|-        a statement, or a token of the owner's provider; - reads stdin
  --url URL             the service (SEALPOST_URL, ${URL_DEFAULT})
  --json                the service's answer as one line of JSON

Revoked is for good.`,
  run: async ([name = "", ...args], interrupted) => {
    const action = Object.hasOwn(actions, name) ? actions[name] : undefined;
    if (action === undefined) throw new WrongWords(`owner takes one of ${Object.keys(actions).join(", ")}`);
    return action(args, interrupted);
  },
};

function writeJwks(jwk: Readonly<Record<string, string>>): Promise<number> {
  return writeOut(`${JSON.stringify({ keys: [jwk] })}\n`);
}
