package rest

// patch serves PATCH.
func (c *call) patch() error {
	return unsupportedMedia("")
}
