// One GET by Go's own client, with the sealed token in KEY.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	request, err := http.NewRequest("GET", "https://api.example.com/v1/items", nil)
	stopOn(err)
	request.Header.Set("Authorization", "Bearer "+os.Getenv("KEY"))
	answer, err := http.DefaultClient.Do(request)
	stopOn(err)
	body, err := io.ReadAll(answer.Body)
	stopOn(err)
	fmt.Println(answer.Proto, string(body))
}

func stopOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
