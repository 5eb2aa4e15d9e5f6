/**
 * `npx sealpost COMMAND`: an agent on the command line, the same for both custodies (docs/sdk.md), and what owners (docs/identity.md) and operators do (docs/operations.md).
 *
 * Ends with 0 when it was done, 1 when it was refused or is not so, 2 for wrong words, 3 when the service did not answer in time, 130 when it was interrupted. What goes
 * wrong is one line on stderr, and names what to do.
 */
import { audit } from "./audit.ts";
import { complaintOf } from "./complaint.ts";
import { contacts } from "./contacts.ts";
import { delegate, delegation } from "./delegate.ts";
import { id } from "./id.ts";
import { ops } from "./ops.ts";
import { owner } from "./owner.ts";
import { policy } from "./policy.ts";
import { rebuild } from "./rebuild.ts";
import { receive } from "./receive.ts";
import { register } from "./register.ts";
import { send } from "./send.ts";
import { session } from "./session.ts";
import { signingKey } from "./signing-key.ts";
import { status } from "./status.ts";
import type { Command } from "./terminal.ts";
import { writeOut } from "./terminal.ts";
import { usage } from "./usage.ts";

/** In the order of their help. A further family of commands is a further line. */
const commands: Readonly<Record<string, Command>> = {
  register,
  id,
  send,
  receive,
  status,
  session,
  policy,
  contacts,
  usage,
  delegate,
  delegation,
  "signing-key": signingKey,
  owner,
  ops,
  audit,
  rebuild,
};

const interrupted = new AbortController();
let timesInterrupted = 0;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    timesInterrupted += 1;
    interrupted.abort();
    if (timesInterrupted > 1) process.exit(130);
  });
}

process.exitCode = await main(process.argv.slice(2));

async function main([name = "--help", ...args]: readonly string[]): Promise<number> {
  if (name === "--help" || name === "help") return writeOut(overview());
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (command === undefined) {
    console.error(`sealpost: there is no command ${name}: sealpost --help names them all`);
    return 2;
  }
  if (args.includes("--help")) return writeOut(`${command.usage}\n`);
  try {
    return await command.run(args, interrupted.signal);
  } catch (error) {
    if (interrupted.signal.aborted) return 130;
    const complaint = complaintOf(error, name);
    if (complaint === null) throw error;
    console.error(`sealpost: ${complaint.text}`);
    return complaint.exitCode;
  }
}

function overview(): string {
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(13)}${summary}`);
  return `Usage: sealpost COMMAND [--store FILE] [--url URL] [--json]

${lines.join("\n")}

  --store FILE  the agent's store (SEALPOST_STORE, .sealpost/agent.db)
  --url URL     the service (SEALPOST_URL, the store's last one; at first http://127.0.0.1:8080)
  --json        one line of JSON in place of text

sealpost COMMAND --help says more. Ends with 0: done; 1: refused, or not so; 2: wrong words;
3: the service did not answer in time; 130: interrupted.
`;
}
