import { execFile } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { parseEvents } from "../../tests/event-client.ts";
import { inMemoryService } from "../../tests/in-memory-service.ts";
import { problemCodes, problems, statusOf } from "../problem.ts";
import { receiveAnswer } from "./message-schemas.ts";
import { servedRoutes, servedToOperators } from "./openapi.ts";
import { problem } from "./problem-schemas.ts";

const page = await readFile(new URL("../../docs/api.md", import.meta.url), "utf8");

/** What stands in the fenced block with this information string. */
function block(info: string): string {
  const [, text] = page.split(`\n\`\`\`${info}\n`);
  if (text === undefined) throw new Error(`docs/api.md has no block \`\`\`${info}`);
  return text.slice(0, text.indexOf("\n```"));
}

const allRoutes = [...servedRoutes, ...servedToOperators];

test("every call has its place", () => {
  for (const { path, method } of allRoutes) expect(page).toContain(`\`${method} ${path}\``);
});

test("every problem code has its row, with status, meaning and fix, and no other has", () => {
  const rows = [...page.matchAll(/^\| `([a-z-]+)` \| (\d{3}) \| (yes|no) \| (.*) \| (.*) \|$/gm)].map((row) =>
    row.slice(1),
  );
  const expected = problemCodes.map((code) => {
    const { title, fix } = problems[code];
    return [code, String(statusOf(code)), "retryable" in problems[code] ? "yes" : "no", title, fix];
  });
  expect(rows).toEqual(expected);
});

test("every example has the form that the service takes and gives", () => {
  const signed = allRoutes.filter(
    ({ operationId, signedBy }) =>
      signedBy !== "nobody" &&
      !["claimBundleByPost", "events", "openapi", "auditCheckpoint", "auditKey"].includes(operationId),
  );
  expect(signed.length).toBeGreaterThan(7);
  for (const { operationId, request, answers } of signed) {
    if (request.body !== undefined) {
      const example = JSON.parse(block(`json ${operationId} request`));
      expect(request.body.safeParse(example), operationId).toMatchObject({ success: true });
    }
    const example = JSON.parse(block(`json ${operationId} answer`));
    const [schema] = Object.values(answers).flatMap((answer) => answer.schema ?? []);
    expect(schema?.safeParse(example), operationId).toMatchObject({ success: true });
  }
  expect(problem.safeParse(JSON.parse(block("json problem")))).toMatchObject({ success: true });
});

test("the example of events has the events that are served, and its item is a poll's", () => {
  const events = parseEvents(`${block("text events answer")}\n\n`);
  expect(events.map(({ name }) => name)).toEqual(["item", "queue_empty", "receipt", "notice", "goaway", "close"]);
  const [item] = events;
  const poll = { items: [item?.data], cursor: item?.id, last_seq: 17 };
  expect(receiveAnswer.safeParse(poll)).toMatchObject({ success: true });
});

test("the signing example registers an agent and reads its mail", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sealpost-sign-"));
  const { http, ports } = await inMemoryService();
  const [script, pem] = [join(folder, "sign.mjs"), join(folder, "agent.pem")];
  await writeFile(script, block("js sign.mjs"));
  await writeFile(pem, generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" }));
  const run = async (...args: string[]) =>
    (await promisify(execFile)(process.execPath, [script, pem, ...args])).stdout.trim();

  const body = await run();
  const registered = await asCurl(await run("POST", `${http.url}/messaging/agents`, body), body);
  expect(registered.status).toBe(201);
  const mail = await asCurl(await run("GET", `${http.url}/messaging/receive?limit=5`));
  expect(await mail.json()).toEqual({ items: [], cursor: "0", last_seq: 0 });
  expect(ports.agents.size).toBe(3);

  await http.close();
  await rm(folder, { recursive: true });
});

/** What curl would do: machines without it run this test, too. */
function asCurl(command: string, body?: string): Promise<Response> {
  const [, method] = /^curl -sS -X (\S+)/.exec(command) ?? [];
  const [, url] = /'([^']+)'$/.exec(command) ?? [];
  const headers = [...command.matchAll(/-H '([^:]+): ([^']+)'/g)].map(
    ([, name, value]) => [String(name), String(value)] as [string, string],
  );
  return fetch(String(url), { method: String(method), headers, ...(body === undefined ? {} : { body }) });
}
