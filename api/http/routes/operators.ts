/** What operators do, with a token of their own (`api/operators.ts`). */
import { rotateAgent } from "../../operations/rotate-agent.ts";
import { agentPath, rotatedAnswer, rotationAskedAnswer } from "../operator-schemas.ts";
import { route } from "../route.ts";

export const rotate = route({
  method: "POST",
  path: "/ops/agents/{id}/rotate",
  operationId: "rotateAgent",
  summary: "Rotate an agent's prekeys",
  description: "At once where the service holds the agent's keys; otherwise the agent is asked to, if it is connected.",
  signedBy: "operator",
  request: { path: agentPath },
  answers: {
    200: { description: "Rotated", schema: rotatedAnswer },
    202: { description: "The agent has its keys itself", schema: rotationAskedAnswer },
  },
  refuses: ["no-such-agent", "keys-unavailable"],
  handle: async (deps, { path: { id } }) => {
    const answer = await rotateAgent(deps, id);
    return answer.outcome === "rotated"
      ? { status: 200, json: { agent_id: id, signed_prekey_id: answer.signedPrekeyId } }
      : { status: 202, json: { agent_id: id, connected: answer.connected } };
  },
});
