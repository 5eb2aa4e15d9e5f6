/** What operators ask of the log and the tables: do they say the same (docs/rebuild.md)? Changes nothing. */
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import type { Compared, Difference } from "../../rebuild/compare.ts";
import type { Rebuilt } from "../../rebuild/rebuild.ts";
import { readLogConfig, readPostgresUrl } from "../config.ts";
import { type RebuildServers, rebuildOver } from "../rebuild-diff.ts";
import { type Command, EXIT, Late, parseWords, secondsOf, WrongWords, writeOut } from "./terminal.ts";

const usage = `Usage: sealpost rebuild [--limit N] [--wait SECONDS] [--json]

Folds the log and compares the tables with what comes out. Changes nothing; may run while the service does.

  --limit N       show so many differences of each table (20); all are counted
  --wait SECONDS  for a moment in which the consumers have read everything (60)

Reads SEALPOST_KAFKA_BROKERS, SEALPOST_REGISTRY_URL and SEALPOST_POSTGRES_URL. Ends with 0: nothing differs; 1: something does;
2: wrong words; 3: there was no such moment, or a server does not answer.`;

export const rebuild: Command = { summary: "do the tables hold what the log says (operators)?", usage, run };

interface Words {
  readonly json: boolean;
  readonly limit: number;
  readonly patienceMs: number;
}

async function run(args: readonly string[]): Promise<number> {
  const words = wordsOf(args);
  const servers = serversOf();
  try {
    const say = (line: string) => console.error(line);
    return await told(await rebuildOver(servers, { patienceMs: words.patienceMs, say }), words);
  } catch (error) {
    if (!(error instanceof Unavailable || error instanceof Refusal)) throw error;
    throw new Late(`${error.message}: run it again when it answers`, { cause: error });
  }
}

function wordsOf(args: readonly string[]): Words {
  const { values, positionals } = parseWords(args, {
    json: { type: "boolean", default: false },
    limit: { type: "string", default: "20" },
    wait: { type: "string", default: "60" },
  });
  if (positionals.length > 0) throw new WrongWords("rebuild takes no words of its own");
  if (!/^\d{1,9}$/.test(values.limit)) throw new WrongWords("--limit takes a number of differences, 0 or more");
  return { json: values.json, limit: Number(values.limit), patienceMs: secondsOf("wait", values.wait) };
}

function serversOf(): RebuildServers {
  try {
    return { ...readLogConfig(), postgresUrl: readPostgresUrl() };
  } catch (error) {
    throw new WrongWords(error instanceof Error ? error.message.replaceAll(/\s+/g, " ") : "", { cause: error });
  }
}

async function told(rebuilt: Rebuilt, { json, limit }: Words): Promise<number> {
  if (rebuilt.outcome === "busy") {
    throw new Late(`not compared: ${rebuilt.why}: let the consumers catch up, or wait for longer: --wait`);
  }
  const { cutAt, tables } = rebuilt;
  const count = tables.reduce((sum, { differences }) => sum + differences.length, 0);
  const verdict = count === 0 ? "The tables hold what the log says." : `${count} rows differ.`;
  const text = json
    ? JSON.stringify({ cut_at: cutAt, count, tables: tables.map((compared) => toWire(compared, limit)) })
    : [...tables.map((compared) => textOf(compared, limit)), verdict].join("\n");
  await writeOut(`${text}\n`);
  return count === 0 ? EXIT.done : EXIT.notDone;
}

/** `since`: null where the log is whole. */
function toWire({ table, since, rows, outside, differences }: Compared, limit: number) {
  const shown = differences.slice(0, limit);
  return {
    ...{ table, since: since === 0 ? null : since, rows, outside, count: differences.length },
    differences: shown.map(({ what, key, columns }) => ({ what, key, columns })),
  };
}

function textOf({ table, since, rows, outside, differences }: Compared, limit: number): string {
  const from = since === 0 ? "the log is whole" : `known since ${new Date(since).toISOString()}`;
  const head = `${table}: ${rows} rows compared, ${differences.length} differ, ${outside} outside (${from})`;
  const more = differences.length > limit ? [`  and ${differences.length - limit} more: --limit`] : [];
  return [head, ...differences.slice(0, limit).map(differenceText), ...more].join("\n");
}

function differenceText({ key, what, columns }: Difference): string {
  const values = Object.entries(columns).map(([name, { log, table }]) => {
    if (what === "missing") return `${name} ${log}`;
    return what === "unexpected" ? `${name} ${table}` : `${name}: the log says ${log}, the table ${table}`;
  });
  return `  ${what} ${key}\n    ${values.join("; ")}`;
}
