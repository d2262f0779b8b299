// Greets whoever is named.

export const handler = {
  handle(task) {
    let name;
    try {
      ({ name } = JSON.parse(new TextDecoder().decode(task.body)));
    } catch (error) {
      throw { tag: "reject", val: `the body is not the JSON that this agent takes: ${error.message}` };
    }
    const reply = JSON.stringify({ greeting: `Hello, ${name}!` });
    return { contentType: "application/json", body: new TextEncoder().encode(reply), headers: [] };
  },
};
