/** What is known of the sessions with a peer, and who can read. */
import type { PairSessions } from "../../sdk/service.ts";
import { type Command, inTime, readWords, secondsOf, WrongWords, withAgent, writeOut } from "./terminal.ts";

const SUITES: Readonly<Record<number, string>> = { 1: "X3DH", 2: "PQXDH with ML-KEM-768" };

export const session: Command = {
  summary: "say what is known of the sessions with a peer",
  usage: `Usage: sealpost session PEER [--begin] [--wait SECONDS] [--json]

Says who holds the keys of both agents, who can read what they say, and what the service knows of their sessions: nothing secret.

  --begin          begin a session first, if there is none to send in
  --wait SECONDS   how long to wait for the service (20)`,
  run: async (args, interrupted) => {
    const { values, positionals } = readWords(args, {
      begin: { type: "boolean", default: false },
      wait: { type: "string", default: "20" },
    });
    const [peerId, ...rest] = positionals;
    if (peerId === undefined || rest.length > 0) throw new WrongWords("session takes the id of one agent");
    const waitMs = secondsOf("wait", values.wait);
    return withAgent(values, { signal: interrupted }, (agent) =>
      inTime(
        waitMs,
        async (late) => {
          const signal = AbortSignal.any([late, interrupted]);
          const begun = values.begin ? await agent.beginSession(peerId, { signal }) : null;
          const known = await agent.sessions(peerId);
          return writeOut(values.json ? `${JSON.stringify(jsonOf(begun, known))}\n` : textOf(begun, known));
        },
        "the service did not answer in time: see that it runs at --url",
      ),
    );
  },
};

function jsonOf(begun: string | null, { custody, peerCustody, isReadByOperator, sessions }: PairSessions) {
  return {
    ...(begun === null ? {} : { begun }),
    ...{ custody, peer_custody: peerCustody, readable_by: isReadByOperator ? "agents-and-operator" : "agents" },
    sessions: sessions.map(({ sessionId, initiatorId, suite, initializedAt, sent, received }) => ({
      ...{ session_id: nameOf(sessionId), initiator_id: initiatorId, suite },
      initialized_at: initializedAt === null ? null : new Date(initializedAt).toISOString(),
      ...{ sent: sent?.messages ?? 0, received: received?.messages ?? 0 },
    })),
  };
}

function textOf(begun: string | null, { custody, peerCustody, isReadByOperator, sessions }: PairSessions): string {
  const lines = sessions.map(({ sessionId, initiatorId, suite, sent, received }) => {
    const began = initiatorId === null ? "" : `, begun by ${initiatorId}`;
    const agreed = suite === null ? "" : `, ${SUITES[suite] ?? `suite ${suite}`}`;
    return `session ${nameOf(sessionId)}: ${sent?.messages ?? 0} sent, ${received?.messages ?? 0} received${began}${agreed}`;
  });
  return [
    `keys are held by: ${holderOf(custody)} (this agent), ${holderOf(peerCustody)} (the peer)`,
    `can be read by: ${isReadByOperator ? "the two agents, and whoever runs the service" : "the two agents alone"}`,
    ...(begun === null ? [] : [`ready to send in: session ${begun}`]),
    ...(lines.length === 0 ? ["the service has seen no session of the two yet"] : lines),
    "",
  ].join("\n");
}

function holderOf(custody: PairSessions["custody"]): string {
  if (custody === null) return "unknown";
  return custody === "agent" ? "the agent" : "the service";
}

function nameOf(sessionId: Uint8Array): string {
  return Buffer.from(sessionId).toString("base64url");
}
