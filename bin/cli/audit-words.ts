/** The words of `sealpost audit replay`, read and checked. */
import { decodeBase64 } from "../../protocol/audit/note.ts";
import {
  FORMATS,
  type Format,
  LATE_MS_DEFAULT,
  RECORDS_PER_FILE_DEFAULT,
  type ReplayRequest,
} from "../../replay/request.ts";
import type { Trusted } from "../../replay/verify-files.ts";
import { parseWords, WrongWords } from "./terminal.ts";

const options = {
  from: { type: "string" },
  to: { type: "string" },
  late: { type: "string" },
  agent: { type: "string", multiple: true },
  action: { type: "string", multiple: true },
  format: { type: "string", default: "jsonl" },
  out: { type: "string" },
  "records-per-file": { type: "string", default: String(RECORDS_PER_FILE_DEFAULT) },
  key: { type: "string", multiple: true },
  url: { type: "string" },
  force: { type: "boolean", default: false },
  "allow-unverified": { type: "boolean", default: false },
  unrecorded: { type: "boolean", default: false },
  "dry-run": { type: "boolean", default: false },
  json: { type: "boolean", default: false },
} as const;

export interface ReplayWords {
  readonly request: ReplayRequest;
  /** Undefined with a dry run. */
  readonly out: string | undefined;
  /** Those that are trusted; none: the service's word. */
  readonly keys: readonly string[];
  readonly url: string | undefined;
  readonly force: boolean;
  readonly allowUnverified: boolean;
  readonly unrecorded: boolean;
  readonly dryRun: boolean;
  readonly json: boolean;
}

/** Throws `WrongWords`. */
export function readReplayWords(args: readonly string[], now: number): ReplayWords {
  const { values, positionals } = parseWords(args, options);
  if (positionals.length > 0) throw new WrongWords("audit replay takes no words of its own");
  if (values.from === undefined || values.to === undefined) throw new WrongWords("name the range: --from and --to");
  const [from, to] = [timeOf("from", values.from), timeOf("to", values.to)];
  if (from >= to) throw new WrongWords("--to must be later than --from: the range ends before it");
  if (to > now)
    throw new WrongWords("--to is in the future: name a time that has passed, for what is not over has no end");
  if (values.out === undefined && !values["dry-run"]) throw new WrongWords("name a folder with --out, or --dry-run");
  return {
    request: {
      ...{ from, to, late_ms: values.late === undefined ? LATE_MS_DEFAULT : lateOf(values.late) },
      agents: (values.agent ?? []).map(agentOf).toSorted(),
      actions: (values.action ?? []).map(actionOf).toSorted(),
      format: formatOf(values.format),
      records_per_file: countOf("records-per-file", values["records-per-file"]),
    },
    ...{ out: values.out, keys: values.key ?? [], url: values.url, force: values.force, json: values.json },
    ...{ allowUnverified: values["allow-unverified"], unrecorded: values.unrecorded, dryRun: values["dry-run"] },
  };
}

/** What `audit verify --dir` is compared with from elsewhere. Throws `WrongWords`. */
export function readTrusted(words: {
  readonly size?: string | undefined;
  readonly root?: string | undefined;
  readonly manifest?: string | undefined;
}): Trusted {
  const { size, root, manifest = null } = words;
  if ((size === undefined) !== (root === undefined)) {
    throw new WrongWords("--size and --root belong together: they are the second and the third line of a checkpoint");
  }
  if (manifest !== null && !/^[0-9a-f]{64}$/.test(manifest)) {
    throw new WrongWords("--manifest takes a SHA-256: 64 characters of hex, as the log's record of the replay has it");
  }
  const head = size === undefined || root === undefined ? null : { size: countOf("size", size), root: rootOf(root) };
  return { head, manifestSha256: manifest };
}

function rootOf(text: string): Uint8Array {
  const bytes = /^[0-9a-f]{64}$/.test(text) ? Buffer.from(text, "hex") : decodeBase64(text);
  if (bytes?.length === 32) return new Uint8Array(bytes);
  throw new WrongWords("--root takes the root of a checkpoint: 32 bytes in base64 as it stands there, or in hex");
}

const DAY = /^\d{4}-\d\d-\d\d$/;
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:\d\d)$/;

/** A day is its first moment in UTC. ms since the epoch. */
function timeOf(name: string, text: string): number {
  const ms = DAY.test(text) || MOMENT.test(text) ? Date.parse(text) : Number.NaN;
  // Date.parse takes 31 February for 3 March.
  const day = text.slice(0, 10);
  const isDay = Number.isFinite(ms) && new Date(Date.parse(day)).toISOString().startsWith(day);
  if (isDay && ms >= 0) return ms;
  throw new WrongWords(`--${name} takes a day (2026-11-01) or a time with its zone (2026-11-01T08:30:00Z)`);
}

function lateOf(text: string): number {
  const [, count, unit] = /^(\d{1,6})(s|m|h|d)$/.exec(text) ?? [];
  if (count === undefined) throw new WrongWords("--late takes a time such as 90s, 30m, 6h or 2d");
  return Number(count) * ({ s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit ?? "s"] ?? 0);
}

function agentOf(text: string): string {
  if (/^[A-Za-z0-9_-]{43}$/.test(text)) return text;
  throw new WrongWords("--agent takes an agent id: 43 characters");
}

function actionOf(text: string): string {
  if (/^[a-z.-]{1,63}\*?$/.test(text)) return text;
  throw new WrongWords("--action takes an action such as message.accepted, or a beginning with a star: message.*");
}

function formatOf(text: string): Format {
  const format = FORMATS.find((one) => one === text);
  if (format !== undefined) return format;
  throw new WrongWords(`--format takes ${FORMATS.join(", ")}`);
}

function countOf(name: string, text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new WrongWords(`--${name} takes a count from 1 on`);
}
