// Greets whoever is named: the body is read from standard input, the answer is printed, and the exit code says how it went.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type request struct {
	Name string `json:"name"`
}

type reply struct {
	Greeting string `json:"greeting"`
}

func main() {
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, "the body is not the JSON that this agent takes:", err)
		os.Exit(1) // for good; 75 would ask to be tried again
	}
	answer, err := json.Marshal(reply{Greeting: "Hello, " + asked.Name + "!"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(answer)
}
