/**
 * `npm run -s rotate -- AGENT_ID`: an operator's word that an agent shall have new prekeys now.
 *
 * Asks the API (`POST /ops/agents/{id}/rotate`) at SEALPOST_OPS_URL with SEALPOST_OPS_TOKEN. Ends with 0 when the prekeys were rotated or a connected
 * agent was asked to rotate, with 1 when not, with 2 for wrong words or a wrong environment.
 */
import { isAgentId } from "../protocol/identity.ts";
import { type OperatorConfig, readOperatorConfig } from "./config.ts";
import { callAsOperator, type OperatorAnswer } from "./operator-call.ts";

/** Making and storing 200 prekeys takes well under a second; then a service does not answer. */
const ANSWER_MS_MAX = 30_000;

process.exitCode = await main(process.argv.slice(2));

async function main([agentId, ...rest]: readonly string[]): Promise<number> {
  if (agentId === undefined || rest.length > 0 || !isAgentId(agentId)) {
    console.error("Usage: npm run -s rotate -- AGENT_ID (43 characters of base64url)");
    return 2;
  }
  const config = configOrComplaint();
  if (config === null) return 2;
  const path = `/ops/agents/${agentId}/rotate`;
  const answer = await callAsOperator(config, { method: "POST", path, msMax: ANSWER_MS_MAX });
  if (answer === null) {
    console.error(`there is no answer from ${config.url}`);
    return 1;
  }
  return said(agentId, answer);
}

function configOrComplaint(): OperatorConfig | null {
  try {
    return readOperatorConfig();
  } catch (error) {
    console.error(error instanceof Error ? error.message : "");
    return null;
  }
}

function said(agentId: string, { status, json }: OperatorAnswer): number {
  if (status === 200) {
    console.log(`rotated: the signed prekey of ${agentId} is now ${json["signed_prekey_id"]}`);
    return 0;
  }
  if (status === 202 && json["connected"] === true) {
    console.log(`asked: ${agentId} has its keys itself, and its gateway has the notice`);
    return 0;
  }
  if (status === 202) {
    console.error(`not connected: ${agentId} has its keys itself, and rotates when it is back`);
    return 1;
  }
  console.error(`${status} ${json["code"]}: ${json["title"]} ${json["fix"] ?? ""}`);
  if (json["code"] === "not-found") console.error("Is SEALPOST_OPS_TOKEN set for the service as well?");
  return 1;
}
