/** What operators see of mail that is stuck and of dead letters, and have done about them (docs/operations.md). */
import type { ParseArgsConfig } from "node:util";
import { type OperatorConfig, readOperatorConfig } from "../config.ts";
import type { OperatorCall } from "../operator-call.ts";
import { decisionOf, decisionOptions } from "./agent-decisions.ts";
import { askedOf } from "./asking.ts";
import { decidedText, hourUsageText, lettersText, queryOf, replayedText, stuckText, usageText } from "./ops-text.ts";
import { type Command, parseWords, WrongWords, writeOut } from "./terminal.ts";
import { hourText } from "./usage-text.ts";

const common = {
  url: { type: "string" },
  json: { type: "boolean", default: false },
} as const satisfies ParseArgsConfig["options"];
const pages = { limit: { type: "string" }, after: { type: "string" } } as const;
const filters = { state: { type: "string" }, recipient: { type: "string" }, sender: { type: "string" } } as const;
const dry = { "dry-run": { type: "boolean", default: false } } as const;

interface Asked {
  readonly call: Pick<OperatorCall, "method" | "path" | "body">;
  readonly common: { readonly url?: string | undefined; readonly json: boolean };
  /** What is printed of the answer. */
  readonly text: (json: Readonly<Record<string, unknown>>) => string;
}

/** Each throws `WrongWords`. */
const actions: Readonly<Record<string, (args: readonly string[]) => Asked>> = {
  list: (args) => {
    const { values, positionals } = wordsOf(args, { ...filters, ...pages });
    if (positionals.length > 0) throw new WrongWords("ops list takes no words of its own");
    const { state, recipient, sender, limit, after } = values;
    const query = queryOf({ state, recipient_id: recipient, sender_id: sender, limit, after });
    return { call: { method: "GET", path: `/ops/messages${query}` }, common: values, text: stuckText };
  },
  retry: (args) => {
    const { values, positionals } = wordsOf(args, { ...filters, ...dry });
    const body = { ...targetOf(values, positionals), dry_run: values["dry-run"] };
    return {
      call: { method: "POST", path: "/ops/messages/retry", body },
      common: values,
      text: decidedText("tried again"),
    };
  },
  delete: (args) => {
    const { values, positionals } = wordsOf(args, { ...filters, ...dry, reason: { type: "string" } });
    if (values.reason === undefined) throw new WrongWords("ops delete takes a --reason");
    const body = { ...targetOf(values, positionals), reason: values.reason, dry_run: values["dry-run"] };
    return {
      call: { method: "POST", path: "/ops/messages/delete", body },
      common: values,
      text: decidedText("deleted"),
    };
  },
  usage: (args) => {
    const { values, positionals } = wordsOf(args, {
      ...pages,
      ...{ from: { type: "string" }, to: { type: "string" }, by: { type: "string" }, hour: { type: "string" } },
    });
    const { from, to, by: granularity, hour, limit, after } = values;
    const [agentId, ...rest] = positionals;
    if (rest.length > 0 || (agentId === undefined) === (hour === undefined))
      throw new WrongWords("ops usage takes the id of one agent, or an --hour of all");
    if (agentId === undefined && (from ?? to ?? granularity) !== undefined)
      throw new WrongWords("--from, --to and --by go with an agent");
    const times = { from: hourIn("from", from), to: hourIn("to", to), hour: hourIn("hour", hour) };
    const query = queryOf({ ...times, granularity, limit, after });
    const path =
      agentId === undefined ? `/ops/usage${query}` : `/ops/agents/${encodeURIComponent(agentId)}/usage${query}`;
    return { call: { method: "GET", path }, common: values, text: agentId === undefined ? hourUsageText : usageText };
  },
  "dead-letters": (args) => {
    const { values, positionals } = wordsOf(args, pages);
    const [topic, ...rest] = positionals;
    if (rest.length > 0) throw new WrongWords("ops dead-letters takes one topic");
    const path = `/ops/dead-letters${queryOf({ topic, ...pick(values) })}`;
    return { call: { method: "GET", path }, common: values, text: lettersText };
  },
  replay: (args) => {
    const { values, positionals } = wordsOf(args, {
      ...dry,
      after: pages.after,
      all: { type: "boolean", default: false },
    });
    const [topic, partition, offset, ...rest] = positionals;
    if (
      topic === undefined ||
      rest.length > 0 ||
      (partition !== undefined) === values.all ||
      (offset !== undefined) === values.all
    ) {
      throw new WrongWords("ops replay takes a topic, and a partition and an offset, or --all");
    }
    const place = values.all
      ? { all: true, ...(values.after === undefined ? {} : { after: values.after }) }
      : { partition: countOf(partition), offset: countOf(offset) };
    const body = { topic, ...place, dry_run: values["dry-run"] };
    return { call: { method: "POST", path: "/ops/dead-letters/replay", body }, common: values, text: replayedText };
  },
  agents: (args) => {
    const { values, positionals } = wordsOf(args, decisionOptions);
    return { ...decisionOf("/ops", positionals, values), common: values };
  },
};

export const ops: Command = {
  summary: "for operators: what is stuck, dead letters, agents, and what they used",
  usage: `Usage: sealpost ops list [--state undeliverable|set-aside] [--recipient ID] [--sender ID] [--limit N] [--after CURSOR]
       sealpost ops retry ITEM... | --state STATE [--recipient ID] [--sender ID]   [--dry-run]
       sealpost ops delete ITEM... | --state STATE [--recipient ID] [--sender ID]  --reason WORD [--dry-run]
       sealpost ops usage AGENT [--from TIME] [--to TIME] [--by hour|day] | --hour TIME   [--limit N] [--after CURSOR]
       sealpost ops dead-letters [TOPIC] [--limit N] [--after CURSOR]
       sealpost ops replay TOPIC PARTITION OFFSET | --all [--after CURSOR]         [--dry-run]
       sealpost ops agents list [--issuer NAME --subject OWNER] [--status STATUS] [--limit N] [--after CURSOR]
       sealpost ops agents suspend|resume|revoke AGENT_ID --reason WORDS

Asks the service at its port for operators. ITEM is as ops list prints it: RECIPIENT/SENDER/ID. TIME is an hour in UTC: 2026-08-19T09.

  --dry-run     only count what it would be
  --reason WORD stands in the message's status and in message.discarded.v1: recipient-gone, for example;
                of an agent, in agent.changed.v1
  --url URL     the port for operators (SEALPOST_OPS_URL, http://127.0.0.1:8090)
  --json        the service's answer as one line of JSON

The token is SEALPOST_OPS_TOKEN. Ends with 0: done; 1: refused; 2: wrong words, or no token; 3: no answer.`,
  run: async ([name = "", ...args], interrupted) => {
    const action = Object.hasOwn(actions, name) ? actions[name] : undefined;
    if (action === undefined) throw new WrongWords(`ops takes one of ${Object.keys(actions).join(", ")}`);
    const { call, common: given, text } = action(args);
    const config = configOf(given.url);
    const json = await askedOf({ url: config.url, token: config.opsToken }, call, interrupted);
    return writeOut(given.json ? `${JSON.stringify(json)}\n` : text(json));
  },
};

function wordsOf<Options extends NonNullable<ParseArgsConfig["options"]>>(args: readonly string[], options: Options) {
  return parseWords(args, { ...options, ...common });
}

/** @throws WrongWords */
function configOf(url: string | undefined): OperatorConfig {
  try {
    return readOperatorConfig(url);
  } catch (error) {
    throw new WrongWords(error instanceof Error ? error.message.replaceAll(/\s+/g, " ") : "", { cause: error });
  }
}

function targetOf(
  {
    state,
    recipient,
    sender,
  }: {
    readonly state?: string | undefined;
    readonly recipient?: string | undefined;
    readonly sender?: string | undefined;
  },
  items: readonly string[],
) {
  if ((state === undefined) === (items.length === 0)) throw new WrongWords("name items, or a --state");
  if (state === undefined && (recipient ?? sender) !== undefined)
    throw new WrongWords("--recipient and --sender go with a --state");
  if (state === undefined) return { items: items.map(itemOf) };
  return {
    filter: {
      state,
      ...(recipient === undefined ? {} : { recipient_id: recipient }),
      ...(sender === undefined ? {} : { sender_id: sender }),
    },
  };
}

function itemOf(text: string) {
  const [recipient, sender, id, ...rest] = text.split("/");
  if (id === undefined || rest.length > 0)
    throw new WrongWords("an item is RECIPIENT/SENDER/ID, as ops list prints it");
  return { recipient_id: recipient, sender_id: sender, item_id: id };
}

function hourIn(name: string, text: string | undefined): string | undefined {
  return text === undefined ? undefined : hourText(name, text);
}

function countOf(text: string | undefined): number {
  if (text === undefined || !/^\d{1,15}$/.test(text)) throw new WrongWords("a partition and an offset are numbers");
  return Number(text);
}

function pick({ limit, after }: { readonly limit?: string | undefined; readonly after?: string | undefined }) {
  return { limit, after };
}
