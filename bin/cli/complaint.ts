/** What goes wrong, in one line that names what to do. */
import { AgentError, ServiceRefused, ServiceUnavailable } from "../../sdk/errors.ts";
import { EXIT, Late, NotSo, WrongWords } from "./terminal.ts";

interface Complaint {
  readonly text: string;
  readonly exitCode: number;
}

const FIXES: Readonly<Record<string, string>> = {
  "recipient-malformed": "an agent id has 43 characters: sealpost id prints one's own",
  "recipient-is-self": "name another agent",
  "recipient-unknown": "check the recipient's id; it must be registered with the same service",
  "agent-malformed": "an agent id has 43 characters: sealpost id prints one's own",
  blocked: "the recipient has blocked this agent",
  "contacts-only": "ask first: sealpost contacts request ID",
  "not-on-allow-list": "only the recipient can put this agent on its list",
  "prekeys-unavailable": "the recipient has published no keys yet: try again when it has been online",
  "content-too-large": "send less than 64 KB in one message",
  "content-type-malformed": "choose another --type",
  "content-malformed": "send text in UTF-8, or any bytes with --file",
  "url-malformed": "give an http or https address: --url or SEALPOST_URL",
  "store-locked": "wait for the other process that uses this store, or name another --store",
  "store-key-missing": "give the key that the store was made with: SEALPOST_STORE_KEY",
  "store-key-wrong": "give the key that the store was made with: SEALPOST_STORE_KEY",
  "store-key-malformed": "SEALPOST_STORE_KEY is 32 bytes as base64url",
  "store-fault": "see that the folder of --store can be written and the disk is not full",
  "delegation-malformed": "see sealpost delegate --help",
  "clock-skew": "set this machine's clock",
  "custody-unavailable": "this service holds no keys: sealpost register --custody agent",
  superseded: "the agent is open elsewhere: close it there",
  unavailable: "see that the service runs at --url",
};

/** Null for what is a bug. */
export function complaintOf(error: unknown, command: string): Complaint | null {
  if (error instanceof WrongWords) {
    return { text: `${error.message}: see sealpost ${command} --help`, exitCode: EXIT.wrongWords };
  }
  if (error instanceof NotSo) return { text: error.message, exitCode: EXIT.notDone };
  if (error instanceof Late) return { text: error.message, exitCode: EXIT.late };
  if (!(error instanceof AgentError)) return isOfConfig(error);
  const cause = error.cause instanceof ServiceRefused ? error.cause : error;
  const about = cause instanceof ServiceRefused ? (cause.rule ?? cause.field) : null;
  const field = about === null ? "" : ` (${about})`;
  const fix = FIXES[cause.code] ?? FIXES[error.code] ?? (cause instanceof ServiceRefused ? cause.fix : null);
  // Many messages say no more than the code.
  const said = [error.message.includes(cause.code) ? null : error.message, fix].filter((part) => part !== null);
  const text = `${cause.code}${field}: ${said.length === 0 ? error.message : said.join(": ")}`;
  return { text, exitCode: error instanceof ServiceUnavailable ? EXIT.late : EXIT.notDone };
}

/** Files that cannot be read, and a reader of the output that is gone. */
function isOfConfig(error: unknown): Complaint | null {
  const { code, path, syscall } = (error ?? {}) as { code?: unknown; path?: unknown; syscall?: unknown };
  if (code === "EPIPE") return { text: "nobody reads the output any more", exitCode: EXIT.notDone };
  if (typeof path !== "string" || typeof syscall !== "string") return null;
  return { text: `${path} cannot be read: ${code}`, exitCode: EXIT.notDone };
}
