/** A browser client that answers each message of a Python client, and ends when it hears "end". */

import { connect } from "../../src/pywsapp/browser/pywsapp.js";

const client = connect(process.env.TEST_URL, { firstDelay: 20, maxDelay: 200 });
const answers = [];
const answer = (data) => answers.push(client.publish("room:both", data));
client.subscribe("room:both", { since: null, presence: true, track: "browser" }, ({ data }) => {
  if (data === "end") Promise.all(answers).then(() => client.close());
  else if (data instanceof Uint8Array && data[0] === 1) answer(data.reverse());
  else if (data.number) answer({ answer: data.number });
});
