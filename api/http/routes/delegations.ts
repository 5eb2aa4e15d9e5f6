/** Taking delegations back. Making one needs no call: its issuer signs it. */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import { revokeDelegation } from "../../operations/revoke-delegation.ts";
import { delegationPath, revokedDelegationAnswer } from "../delegation-schemas.ts";
import { route } from "../route.ts";

export const revoke = route({
  method: "POST",
  path: "/messaging/delegations/{jti}/revoke",
  operationId: "revokeDelegation",
  summary: "Take a delegation back",
  description:
    "One of the caller's own, wherever it stands in a chain: within 5 s no chain with it is taken. Again changes nothing. A delegation that the service has not seen is revoked all the same.",
  signedBy: "agent",
  request: { path: delegationPath },
  answers: { 200: { description: "It is revoked", schema: revokedDelegationAnswer } },
  refuses: ["rate-limited"],
  handle: async (deps, { caller, path: { jti } }) => ({
    status: 200,
    json: {
      issuer_id: caller.agentId,
      jti,
      revoked_at: formatTimestamp(await revokeDelegation(deps, caller, jti)),
    },
  }),
});
