package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"bootprof/mountclient"
)

func (a *app) serveCmd() *cobra.Command {
	listen := ":8080"
	cmd := &cobra.Command{
		Use:   "serve DIR",
		Short: "Serve the files of a directory over HTTP, with ranges",
		Long: `Serve the files of DIR over HTTP until interrupted. For a lab; any other web server that serves ranges
(nginx, Apache, Caddy, an object store) does as well.`,
		Args: args(1, 1, "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := net.SplitHostPort(listen); err != nil {
				return usage(cmd, fmt.Errorf("--listen %s: want ADDRESS:PORT or :PORT", listen))
			}
			root, err := os.OpenRoot(args[0])
			if err != nil {
				return &codedError{mountclient.ExitSetup, err}
			}
			defer root.Close()
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return &codedError{mountclient.ExitSetup, err}
			}
			fmt.Fprintf(a.stderr, "serving %s at http://%s/\n", args[0], l.Addr())
			srv := &http.Server{Handler: http.FileServerFS(root.FS()), ReadHeaderTimeout: 10 * time.Second}
			defer context.AfterFunc(cmd.Context(), func() { srv.Close() })()
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", listen, "`ADDRESS:PORT` to listen on")
	return cmd
}
