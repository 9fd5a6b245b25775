package control

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

const (
	// maxRequestBytes bounds the body of a request; the largest is a join with its certificate request.
	maxRequestBytes = 64 << 10
	// maxResponseBytes bounds what a client reads of an answer; the largest is a status of many resources.
	maxResponseBytes = 64 << 20
	// maxEventBytes bounds one line of the event stream.
	maxEventBytes = 64 << 10
)

// decodeRequest reads one JSON value of at most maxRequestBytes, refuses keys it does not know and anything after the
// value, and checks the result. An empty body stands for the zero value.
func decodeRequest(body io.Reader, into any) error {
	limited := &io.LimitedReader{R: body, N: maxRequestBytes + 1}
	decoder := json.NewDecoder(limited)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		err = expectEnd(decoder)
	}
	switch {
	case limited.N <= 0:
		return Errorf(CodeUsage, "the request is longer than %d bytes", maxRequestBytes)
	case err != nil && !errors.Is(err, io.EOF):
		return Errorf(CodeUsage, "the request is not understood: %v", err)
	}
	if v, ok := into.(validator); ok {
		return v.Validate()
	}
	return nil
}

// expectEnd returns io.EOF where the input ends as it should.
func expectEnd(decoder *json.Decoder) error {
	_, err := decoder.Token()
	if err == nil {
		return errors.New("there is more after its end")
	}
	return err
}

// writeJSON sends an answer. A failure to send is the client's to notice: there is nobody left to tell.
func writeJSON(w http.ResponseWriter, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(text, '\n'))
	return err
}
