/** The answers to operators' calls, for eyes: their forms are in api/http/operator-schemas.ts. Pure. */
import type { z } from "zod";
import { deadLettersAnswer, decidedAnswer, replayedAnswer, stuckAnswer } from "../../api/http/operator-schemas.ts";
import { hourUsageAnswer, usageAnswer } from "../../api/http/usage-schemas.ts";
import { NotSo, printable } from "./terminal.ts";
import { usageTable } from "./usage-text.ts";

type Json = Readonly<Record<string, unknown>>;

export function stuckText(json: Json): string {
  const { groups, items = [], cursor } = read(stuckAnswer, json);
  const lines = groups.map(({ state, reason, count, oldest_since: oldest }) => {
    return `${state} (${reason}): ${count}${oldest === undefined ? "" : `, the oldest since ${oldest}`}`;
  });
  const rows = items.map(({ recipient_id: recipient, sender_id: sender, item_id: id, kind, seq, since }) => {
    return `${recipient}/${sender}/${id} ${kind} seq ${seq} since ${since}`;
  });
  return linesOf([...lines, ...rows, ...moreOf(cursor)]);
}

export function decidedText(done: string): (json: Json) => string {
  return (json) => {
    const { count, more, dry_run: isDryRun } = read(decidedAnswer, json);
    const rest = more ? ["there are more: the same command again takes them"] : [];
    return linesOf([`${count} ${isDryRun ? "would be" : "will be"} ${done}`, ...rest]);
  };
}

export function lettersText(json: Json): string {
  const { topics, letters = [], cursor } = read(deadLettersAnswer, json);
  const lines = topics.map(({ topic, count }) => `${topic}: ${count}`);
  const rows = letters.map(
    ({ partition, offset, at, code, group, ce_id: id, ce_subject: subject, value_bytes: bytes }) => {
      return `${partition} ${offset} at ${at} ${code} by ${group}, ${bytes} bytes, ce_id ${id}, about ${subject}`;
    },
  );
  return linesOf([...(lines.length === 0 ? ["there are no dead letters"] : lines), ...rows, ...moreOf(cursor)]);
}

export function replayedText(json: Json): string {
  const { count, skipped, cursor, dry_run: isDryRun } = read(replayedAnswer, json);
  const left =
    skipped === 0
      ? []
      : [`${skipped} stay: they do not say that they come from this topic, or their message is more than 7 days old`];
  return linesOf([`${count} ${isDryRun ? "would be put" : "put"} back`, ...left, ...moreOf(cursor)]);
}

export function usageText(json: Json): string {
  const { granularity, usage, cursor } = read(usageAnswer, json);
  return usageTable(granularity, "start", usage) + linesOf(moreOf(cursor));
}

export function hourUsageText(json: Json): string {
  const { usage, cursor } = read(hourUsageAnswer, json);
  return usageTable("agent", "agent_id", usage) + linesOf(moreOf(cursor));
}

export function moreOf(cursor: string | undefined): readonly string[] {
  return cursor === undefined ? [] : [`there are more: --after ${cursor}`];
}

/** Headers of a dead letter are a stranger's. */
export function linesOf(lines: readonly string[]): string {
  return lines.map((line) => `${printable(line.replaceAll("\n", " "))}\n`).join("");
}

/** @throws NotSo */
export function read<Schema extends z.ZodType>(schema: Schema, json: Json): z.output<Schema> {
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw new NotSo("the service is of another version than this command: --json shows its answer");
  return parsed.data;
}

/** The query of what was given. */
export function queryOf(parameters: Readonly<Record<string, string | undefined>>): string {
  const given = Object.entries(parameters).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]]));
  return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
}
