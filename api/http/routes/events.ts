/** The mailbox as a stream of events. */
import { route } from "../route.ts";

export const events = route({
  method: "GET",
  path: "/messaging/events",
  operationId: "events",
  summary: "Open the mailbox as Server-Sent Events",
  description:
    "Everything that waits, by seq, then what arrives: docs/stream.md. It is the agent's one stream: the newest wins, whichever of WebSocket and events it is. Answers go to POST /messaging/acknowledge. Last-Event-ID has no effect: every connection starts with everything that is not answered.",
  signedBy: "agent",
  request: { headers: { "Last-Event-ID": "no effect" } },
  answers: {
    200: {
      description: "Events item, queue_empty, receipt, notice, problem, goaway, close; comments in between",
      mediaType: "text/event-stream",
    },
  },
  refuses: [],
  handle: (deps, { caller }) => ({
    status: 200,
    headers: {
      "content-type": "text/event-stream",
      // It ends with its connection; what comes after a drain must not come to this process.
      connection: "close",
      // nginx would keep events back until its buffer is full.
      "x-accel-buffering": "no",
    },
    open: deps.openEvents(caller),
  }),
});
