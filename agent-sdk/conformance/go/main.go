// Does what the command shape is able to; see the scenarios beside it.
package main

import (
	"fmt"
	"io"
	"os"
)

const tryAgain = 75

func fail(code int, why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(code)
}

func main() {
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(1, err.Error())
	}
	switch deed := os.Getenv("TASK_HEADER_DO"); deed {
	case "echo":
		os.Stdout.Write(body)
	case "count":
		sum := 0
		for _, b := range body {
			sum += int(b)
		}
		fmt.Printf("%d bytes, sum %d", len(body), sum)
	case "header":
		fmt.Print(os.Getenv("TASK_HEADER_COLOUR"))
	case "reject":
		fail(1, string(body))
	case "retry":
		fail(tryAgain, string(body))
	case "second-attempt":
		if os.Getenv("TASK_ATTEMPT") == "1" {
			fail(tryAgain, "not yet")
		}
		fmt.Print("attempt ", os.Getenv("TASK_ATTEMPT"))
	case "log":
		fmt.Fprintln(os.Stderr, string(body))
	case "spin":
		for {
		}
	case "file":
		text, err := os.ReadFile("/data/in.txt")
		if err == nil {
			err = os.WriteFile("/data/out.txt", text, 0o644)
		}
		if err != nil {
			fail(1, err.Error())
		}
		os.Stdout.Write(text)
	default:
		fail(1, "this shape does not do "+deed)
	}
}
