/** Makes the agent of a store and registers it; again it says which one it is. */
import { Agent } from "../../sdk/agent.ts";
import { readAgentConfig } from "../config.ts";
import { readToken } from "./key-file.ts";
import { type Command, readWords, WrongWords, withAgent, writeFacts, writeOut } from "./terminal.ts";

const READERS = {
  agent: "the agents alone; the operator sees who, whom, when and how large",
  server: "the agents, and whoever runs the service's encryption tier",
} as const;

export const register: Command = {
  summary: "make an agent and register it",
  usage: `Usage: sealpost register [--custody agent|server] [--owner-statement FILE|-] [--store FILE] [--url URL] [--json]
       sealpost register --key-id [--custody agent|server] [--store FILE]

Makes the agent of this store, unless there is one, registers it and prints its id.

  --custody agent   the agent holds its keys (default): nobody else can read its messages
  --custody server  the service holds them: whoever runs it can read the agent's messages
  --owner-statement FILE|-
                    who answers for the agent: its owner's statement (sealpost owner statement), or a
                    token of the owner's provider; - reads stdin
  --key-id          only print the id of the key that is to be registered, for the owner's statement`,
  run: async (args, signal) => {
    const { values, positionals } = readWords(args, {
      custody: { type: "string" },
      "owner-statement": { type: "string" },
      "key-id": { type: "boolean", default: false },
    });
    if (positionals.length > 0) throw new WrongWords("register takes no words of its own");
    const { custody } = values;
    if (custody !== undefined && custody !== "agent" && custody !== "server") {
      throw new WrongWords("--custody is agent or server");
    }
    const given: { readonly custody?: "agent" | "server" } = custody === undefined ? {} : { custody };
    if (values["key-id"]) return writeKeyId(values, given);
    const path = values["owner-statement"];
    const owner = path === undefined ? {} : { ownerStatement: await readToken(path) };
    return withAgent(values, { signal, isNew: true, ...given, ...owner }, (agent) =>
      writeFacts(values.json, { agent_id: agent.id, custody: agent.custody, readable_by: READERS[agent.custody] }),
    );
  },
};

async function writeKeyId(
  { store, json }: { readonly store?: string | undefined; readonly json: boolean },
  custody: { readonly custody?: "agent" | "server" },
): Promise<number> {
  const { storePath, storeKey } = readAgentConfig();
  const key = storeKey === undefined ? {} : { key: storeKey };
  const keyId = await Agent.keyId({ storePath: store ?? storePath, ...key, ...custody });
  return writeOut(json ? `${JSON.stringify({ key_id: keyId })}\n` : `${keyId}\n`);
}
